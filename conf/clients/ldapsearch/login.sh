#!/bin/sh
# Try a login through ldapmfa: login.sh USER, then type the password with the code behind it (or give it on stdin).
# Exit code 0: logged in, 49: refused. Change the pattern that makes a bind name of a user name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bind_name=$(printf '%s@example.test' "$1")

trap 'stty echo 2>/dev/null || true' EXIT
if [ -t 0 ]; then printf 'Password and code: ' >&2; stty -echo; fi
IFS= read -r password || [ -n "$password" ]

# -y takes the whole file as the password, hence no line end; nothing of it shows in the list of processes
printf %s "$password" | LDAPCONF="$here/ldaprc" ldapsearch -x -LLL -D "$bind_name" -y /dev/stdin -s base 1.1
