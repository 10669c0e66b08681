# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with what the project needs, or leaves it alone where it is up to date.
# Usage: make_environment [EXTRA], such as "make_environment test". Honours PYTHON (an interpreter) and VENV (a folder).

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "CPython 3.11, 3.12 or 3.13 is needed and none was found; install one or set PYTHON to it" >&2
  return 2
}

make_environment() {
  local extra="${1:-}" venv="${VENV:-.venv}" python wanted
  wanted="$(cat setup.cfg pyproject.toml requirements.txt | cksum) $(pwd)"
  if [ "$(cat "$venv/installed-${extra:-base}" 2>/dev/null)" != "$wanted" ]; then
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      python="$(find_python)" || return
      echo "making $venv with $($python --version)" >&2
      rm -rf "$venv"
      "$python" -m venv "$venv" || {
        echo "the venv module does not work; on Debian and Ubuntu: apt-get install python3-venv" >&2
        return 2
      }
    fi
    echo "installing (about two minutes the first time)" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".${extra:+[$extra]}" || return
    echo "$wanted" >"$venv/installed-${extra:-base}"
  fi
  PATH="$(cd "$venv/bin" && pwd):$PATH"
}
