# Variables of a command, which come on standard input: an argument would be visible to all users of the host.

load_variables() { # $1: a line of base64 as `encode_variables` makes it. $2: folder for copies of credential files
    local entry
    while IFS= read -r -d '' entry; do
        case $entry in
        file:*)
            entry=${entry#file:}
            mkdir -p -m 700 "$2"
            (umask 077 && printf '%s' "${entry#*=}" >"$2/${entry%%=*}")
            export "${entry%%=*}=$2/${entry%%=*}"
            ;;
        *) export "$entry" ;;
        esac
    done < <(printf '%s' "$1" | base64 -d)
}
