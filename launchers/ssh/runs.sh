# Manages detached runs on a host. `background.py` sends this text to `bash -c`.
#
# $1: start, status, follow, terminate, finish or list. $2: the run's name. $3: its mark on this host.
# start: $4 is the command, whose variables (`load_variables`) are a line on standard input. follow: $4 is the number of earlier lines. finish: $4 is the number of seconds to save.
# A run is a folder with the files command, log, pid, and exit once it has ended. The process that waits for the command
# and writes its exit code holds a lock on the file keeper.
runs=$HOME/.instructrl/runs folder=$HOME/.instructrl/runs/$2 mark=RUN_MARK=$3

running() { # true if the process with the recorded PID is the run's, as PIDs are reused
    [ -f "$1/pid" ] && grep -qszxF "$(cat "$1/mark")" "/proc/$(cat "$1/pid")/environ"
}

kept() { # the command has ended; wait until its keeper, if any, has written the exit code
    [ ! -f "$1/keeper" ] || flock -s -w 10 "$1/keeper" true
}

code_of() { # the exit code: in its file, or in the last line of the log if the keeper could not write that file
    cat "$1/exit" 2>/dev/null || tail -n 1 "$1/log" 2>/dev/null | sed -n 's/^the run ended with code \([0-9]*\), .*/\1/p'
}

state() {
    local code
    if [ ! -d "$1" ]; then echo absent
    elif running "$1"; then echo "running $(cat "$1/pid")"
    elif kept "$1" && code=$(code_of "$1") && [ -n "$code" ]; then echo "ended $code"
    else echo lost; fi # for example after a restart of the host
}

start() {
    ! running "$folder" || { echo "run $2 is running already" >&2; exit 3; }
    kept "$folder"
    local variables
    IFS= read -r variables
    mkdir -p "$runs" && mkdir -p -m 700 "$folder"
    rm -rf "$folder/exit" "$folder/exit.part" "$folder/pid"
    [ ! -s "$folder/log" ] || echo "the run is started again" >>"$folder/log" # what stands above is not its exit code
    printf '%s\n' "$4" >"$folder/command"
    printf '%s' "$mark" >"$folder/mark"
    VARIABLES=$variables setsid bash -c "$(declare -f load_variables)"'
        trap "" HUP
        exec 9>"$3/keeper" && flock 9
        variables=$VARIABLES
        unset VARIABLES
        (load_variables "$variables" "$3/private"; exec env "$1" bash -c "$2") 9>&- &
        for _ in $(seq 250); do # until `running` recognizes it, or it has ended
            ! grep -qszxF "$1" /proc/$!/environ && kill -0 $! 2>/dev/null || break
            sleep 0.02
        done
        echo $! >"$3/pid.part" && mv "$3/pid.part" "$3/pid"
        wait $!
        code=$?
        rm -rf "$3/private"
        { echo $code >"$3/exit.part" && mv "$3/exit.part" "$3/exit"; } 2>/dev/null ||
            printf "\n%s\n" "the run ended with code $code, which cannot be written to $3/exit"
    ' run "$mark" "$4" "$folder" </dev/null >>"$folder/log" 2>&1 &
    for _ in $(seq 100); do
        [ ! -f "$folder/pid" ] || exit 0
        sleep 0.1
    done
    echo "the run does not start" >&2
    exit 4
}

follow() {
    case $(state "$folder") in
    absent) echo "there is no run $2" >&2; exit 3 ;;
    lost) tail -n "$4" "$folder/log"; echo "run $2 was lost"; exit 4 ;;
    esac
    tail -n "$4" -F --pid="$(cat "$folder/pid")" "$folder/log" 2>/dev/null
    kept "$folder"
    local code
    code=$(code_of "$folder")
    exit "${code:-4}"
}

terminate() {
    ! running "$folder" || kill -TERM "$(cat "$folder/pid")"
}

finish() { # what `terminate` began
    for _ in $(seq $(($4 * 10))); do
        running "$folder" || break
        sleep 0.1
    done
    local left
    for _ in 1 2 3; do
        left=$(grep -lszxF "$mark" /proc/[0-9]*/environ | tr -dc '0-9\n')
        [ -n "$left" ] || break
        kill -KILL $left 2>/dev/null
        sleep 0.2
    done
    state "$folder"
}

list() { # all runs of this host
    for each in "$runs"/*/; do
        [ ! -d "$each" ] || echo "$(basename "$each") $(state "${each%/}")"
    done
}

case $1 in
status) state "$folder" ;;
*) "$1" "$@" ;; # functions use the same positions
esac
