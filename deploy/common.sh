# shellcheck shell=bash
# Sourced by the scripts of this folder.
#
# DRY_RUN=1 prints the commands that would change anything, one a line and quoted for a shell, and runs none of them.
# RESTARTS says how often a run that failed is started again, POLL_SECONDS how often a machine is asked how it does.

# shellcheck disable=SC2034 # for those that source this
STOPPED=75 # what make-jax train is told to answer when it was stopped and has saved

die() { # MESSAGE [CODE]
  echo "${0##*/}: error: $1" >&2
  exit "${2:-2}"
}

need() { # NAME WHAT...: settings that have no default
  while (($#)); do
    [ -n "${!1:-}" ] || die "$1 is not set; export it: $2"
    shift 2
  done
}

is_dry() { [ "${DRY_RUN:-0}" = 1 ]; }

run() {
  local line
  if is_dry; then
    printf -v line '%q ' "$@"
    echo "${line% }"
  else
    "$@"
  fi
}

chips_of() { # v5e:4x8
  local chips=1 size sizes
  [[ "$1" =~ ^(v4|v5e|v5p|v6e):[0-9]+(x[0-9]+)+$ ]] ||
    die "TOPOLOGY is $1, but it must be v4, v5e, v5p or v6e and sizes, such as v5e:4x8 or v5p:4x4x8"
  IFS=x read -ra sizes <<<"${1#*:}"
  for size in "${sizes[@]}"; do
    chips=$((chips * size))
  done
  echo "$chips"
}
