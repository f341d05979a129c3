# Runs one command on a host for as long as somebody holds the line. `hosts.py` sends this text to `bash -c`.
#
# $1: the command; its first process is the one that is asked to end. $2: its mark, by which all of its processes are
# known. $3: seconds without a line on standard input after which nobody holds it any more.
# A line `stop N` asks the command to end (TERM) and ends it after N seconds (KILL). So does the end of standard input.
patience=$3 mark=HELD_BY=$2
trap : HUP PIPE # not '': the command would inherit that
exec 3<&0 </dev/null

env "$mark" setsid bash -c "$1" 3<&- 2>&1 &
job=$!

marked() { # also those that left the session: the mark is in the environment
    grep -lszxF "$mark" /proc/[0-9]*/environ | tr -dc '0-9\n'
}

kill_marked() {
    local left
    for _ in 1 2 3; do # again, for what was being started meanwhile
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
    exec >/dev/null 2>&1 # holds no output open when the command has ended
    while IFS= read -r -t "$patience" word <&3; do
        case $word in stop\ *) end "${word#stop }" & ;; esac
    done
    end 5
) &
watcher=$!

wait $job
code=$?
while kill -0 $job 2>/dev/null; do # a signal interrupted the waiting
    wait $job
    code=$?
done
kill $watcher 2>/dev/null
kill_marked
[ $code != 255 ] || code=254 # 255 is how ssh says that the host does not answer
exit $code
