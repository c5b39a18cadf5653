# What a person does: types a command, presses Enter, reads what it says.
type_and_run() {
    printf '\033[32m$\033[0m '
    text=$1
    while [ -n "$text" ]; do
        rest=${text#?}
        printf '%s' "${text%"$rest"}"
        text=$rest
        sleep 0.03
    done
    sleep 0.4
    printf '\n'
    eval "$1" || printf '\033[2m(exit code %s)\033[0m\n' $?
    sleep "${2:-1.5}"
}
