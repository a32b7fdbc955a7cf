#!/bin/sh
# Runs the service's command: entrypoint.sh my-service serve. With RUN_DB_MIGRATIONS=true the
# schema is brought up to date before; if that fails, the container ends with its exit code.
set -eu

# In the background: a shell that is the first process of a container ignores SIGTERM while it
# waits for a command in the foreground, and the container would have to be killed.
migrate() {
    stopped=false
    trap 'stopped=true; kill -TERM "${!:-}" 2>/dev/null || true' TERM INT HUP
    "$1" migrate --wait &
    # A signal ends `wait`, not the migration: nothing may run beside it, or instead of it.
    while code=0; wait $! || code=$?; kill -0 $! 2>/dev/null; do :; done
    if $stopped; then exit 143; fi
    trap - TERM INT HUP
    return "$code"
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
