# Runs a command on a host while the connection is held. `broadcast.py` sends this text to `bash -c`.
#
# $1: the command; its first process receives TERM. $2: a mark that identifies all of its processes. $3: seconds without
# a line on standard input after which the connection counts as lost.
# The first line of standard input has the command's variables (`load_variables`). A line `stop N` sends TERM to the command, and KILL after N seconds. So does the end of standard input.
timeout=$3 mark=HELD_BY=$2 private=$HOME/.instructrl/private-$$
trap : HUP PIPE # not '': the command would inherit that
exec 3<&0 </dev/null
IFS= read -r -t "$timeout" variables <&3

(
    load_variables "$variables" "$private"
    exec env "$mark" setsid bash -c "$1" 2>&1
) 3<&- &
job=$!

marked() { # also processes that left the session: the mark is in their environment
    grep -lszxF "$mark" /proc/[0-9]*/environ | tr -dc '0-9\n'
}

kill_marked() {
    local left
    for _ in 1 2 3; do # repeatedly, for processes started meanwhile
        left=$(marked)
        [ -n "$left" ] || return
        kill -KILL $left 2>/dev/null
    done
}

end() {
    kill -TERM $job 2>/dev/null
    for ((tenth = 0; tenth < $1 * 10; tenth++)); do
        kill -0 $job 2>/dev/null || return
        sleep 0.1
    done
    kill_marked
}

(
    exec >/dev/null 2>&1 # keeps no output open after the command has ended
    while IFS= read -r -t "$timeout" message <&3; do
        case $message in stop\ *) end "${message#stop }" & ;; esac
    done
    end 5
) &
watcher=$!

wait $job
code=$?
while kill -0 $job 2>/dev/null; do # a signal interrupted wait
    wait $job
    code=$?
done
kill $watcher 2>/dev/null
kill_marked
rm -rf "$private"
[ $code != 255 ] || code=254 # 255 is ssh's own code for a host that does not answer
exit $code
