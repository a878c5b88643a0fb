"""/v1/allocations"""

from fastapi import APIRouter

from app.api.auth import READ
from app.api.dependencies import DatabaseDep
from app.api.idempotency import IdempotentRoute
from app.api.schemas.allocations import AllocationIn, AllocationOut, PlanOut
from app.services import allocations

router = APIRouter(
    prefix="/v1/allocations",
    tags=["allocations"],
    route_class=IdempotentRoute,
    dependencies=[READ],
)


@router.post("")
def create_allocation(body: AllocationIn, database: DatabaseDep) -> AllocationOut | PlanOut:
    """How to spend a budget: the N and D of least loss, how sure that is, how flat the valley.

    With a `machine`, time and money count as they do there, and the answer is a plan: shape,
    tokens, GPUs, batch, hours, dollars, and the trainer's configuration.
    """
    with database.begin() as connection:
        if body.machine is None:
            found = allocations.allocate_budget(connection, body.fit, body.budget(), body.options())
            return AllocationOut.model_validate({"fit": body.fit, **found.to_dict()})
        plan = allocations.allocate_on_machine(
            connection,
            body.fit,
            body.machine.to_machine(),
            body.budgets(),
            beside=body.beside,
            options=body.plan_options(),
        )
    return PlanOut.model_validate({"fit": body.fit, **plan})
