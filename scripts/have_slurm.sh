#!/usr/bin/env bash
# The cluster test starts a real one-node Slurm of its own. Where the programs are missing and we may
# install packages, install them; otherwise say how. Never a failure: without Slurm that test skips
# and says why. Nothing is started here, and whatever the packages would start is kept from starting.
set -u

# Debian keeps the daemons in /usr/sbin, which is not on everybody's path.
PATH="$PATH:/usr/sbin:/sbin"

missing=""
for name in munged mungekey slurmctld slurmd sbatch scancel squeue; do
    command -v "$name" >/dev/null 2>&1 || missing="$missing $name"
done
ls /usr/lib/*/libnss_wrapper.so >/dev/null 2>&1 || missing="$missing libnss_wrapper"
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing slurm-wlm and munge with apt for the cluster test" >&2
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # A package starts its services unless policy-rc.d says no; the test starts its own by itself.
    policy=/usr/sbin/policy-rc.d
    made_policy=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made_policy=yes
    fi
    # a mirror may hiccup, and a fresh machine may be installing things by itself
    patient=(-o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
    timeout 300 apt-get "${patient[@]}" update -qq >"$log" 2>&1 </dev/null \
        && timeout 600 apt-get "${patient[@]}" install -y -qq --no-install-recommends \
            munge slurmctld slurmd slurm-client libnss-wrapper >>"$log" 2>&1 </dev/null
    code=$?
    if [ -n "$made_policy" ]; then rm -f "$policy"; fi
    if [ $code = 0 ]; then
        rm -f "$log"
        exit 0
    fi
    echo "Slurm could not be installed; the last lines of apt:" >&2
    tail -n 5 "$log" >&2
    rm -f "$log"
fi
echo "No Slurm here: the cluster test will skip. On Debian: apt-get install slurm-wlm munge libnss-wrapper" >&2
exit 0
