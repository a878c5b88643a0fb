# Sourced by the scripts that install from a network: `again COMMAND...` runs the command, and where it
# fails once more after each of AGAIN_AFTER's pauses (seconds), since an index or a mirror may hiccup.
# Its status is that of the last try.
again() {
    local pause
    for pause in ${AGAIN_AFTER:-5 20}; do
        "$@" && return 0
        echo "'$1' failed; once more in $pause s" >&2
        sleep "$pause"
    done
    "$@"
}
