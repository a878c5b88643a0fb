"""Runs that are deleted are looked for in the big tables one by one.

Nobody can know beforehand how many points the deleted runs have, and for ten thousand of them the
planner reads every partition from end to end, also where they have none. `limit 1` leaves it no
choice but the index.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        create or replace function scalewright_forget_curves() returns trigger
        language plpgsql as $$
        declare
            ids bigint[];
        begin
            select array_agg(id) into ids from gone, lateral
                (select 1 from curve_points where run_id = gone.id limit 1) seen;
            if ids is not null then
                delete from curve_points where run_id = any (ids);
            end if;
            select array_agg(id) into ids from gone, lateral
                (select 1 from metrics where run_id = gone.id limit 1) seen;
            if ids is not null then
                delete from metrics where run_id = any (ids);
            end if;
            return null;
        end
        $$;
        """
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup taken before the upgrade")
