#!/bin/sh
# Runs the service's command: entrypoint.sh my-service serve. With RUN_DB_MIGRATIONS=true the
# schema is brought up to date before; where that fails, the container ends with its exit code.
set -eu

# In the background: a shell that is the first process of a container ignores SIGTERM while it
# waits for a command in the foreground, and the container would have to be killed.
migrate() {
    "$1" migrate --wait &
    trap 'kill -TERM $!' TERM INT HUP
    wait $!
    trap - TERM INT HUP
}

# The substitution takes a line break from its end.
case "$(printf %s "${RUN_DB_MIGRATIONS:-false}")" in
true) migrate "$1" ;;
false) ;;
*)
    echo "RUN_DB_MIGRATIONS is '$RUN_DB_MIGRATIONS': set it to true or false" >&2
    exit 2
    ;;
esac

exec "$@"
