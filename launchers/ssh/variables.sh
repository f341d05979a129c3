# Variables of a command, which come on standard input: an argument would be visible to all users of the host.

load_variables() { # $1: a line of base64 as `encode_variables` makes it. $2: folder for copies of credential files
    local entry reason # -g below: a variable may have one of these names
    while IFS= read -r -d '' entry; do
        case $entry in
        file:*)
            entry=${entry#file:}
            reason=$({ umask 077 && mkdir -p "$2" && printf '%s' "${entry#*=}" >"$2/${entry%%=*}"; } 2>&1) || {
                echo "error: ${entry%%=*}: its copy cannot be written to $2 (${reason##*: })"
                exit 1 # the command would fail later, and not say why
            }
            declare -gx "${entry%%=*}=$2/${entry%%=*}"
            ;;
        *) declare -gx "$entry" ;;
        esac
    done < <(printf '%s' "$1" | base64 -d)
}
