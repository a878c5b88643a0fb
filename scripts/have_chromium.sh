#!/usr/bin/env bash
# The browser tests drive a Chromium. Where it is missing and we may install packages, install it;
# otherwise say how. Never a failure: without a browser those tests skip and say why.
set -u

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing chromium with apt for the browser tests" >&2
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # a mirror may hiccup, and a fresh machine may be installing things by itself
    patient=(-o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
    if timeout 300 apt-get "${patient[@]}" update -qq >"$log" 2>&1 </dev/null \
        && timeout 600 apt-get "${patient[@]}" install -y -qq --no-install-recommends chromium \
            >>"$log" 2>&1 </dev/null
    then
        rm -f "$log"
        exit 0
    fi
    echo "chromium could not be installed; the last lines of apt:" >&2
    tail -n 5 "$log" >&2
    rm -f "$log"
fi
echo "No chromium here: the browser tests will skip. On Debian: apt-get install chromium" >&2
exit 0
