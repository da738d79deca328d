# Shared code of the `smoke.sh` scripts. Sourced, not run. Changes to an empty directory that is removed at the end.
set -euo pipefail

packages=/var/vcap/packages
scratch=$(mktemp -d)
trap 'rm -rf "${scratch}"' EXIT
cd "${scratch}"

ok() {
  echo "ok $*"
}

fail() {
  echo "not ok $*" >&2
  exit 1
}

# equal WHAT EXPECTED ACTUAL
equal() {
  [[ $2 == "$3" ]] || fail "$1: expected '$2', got '$3'"
  ok "$1: ${3//$'\n'/ }"
}

# unpacked PACKAGE...: fails unless all of them exist.
unpacked() {
  local package
  for package in "$@"; do
    [[ -d ${packages}/${package}/. ]] || fail "${package} is not unpacked at ${packages}/${package}"
  done
}
