#!/bin/sh
# Install the packages of requirements.lock into .venv, with verified hashes, unless they are installed. Arguments: starter, tests.
# Variables: BASE_PYTHON; TORCH=cpu or the URL of an index with torch; and uv's own.
# uv is downloaded into .venv if it is not on the PATH.
set -eu
cd "$(dirname "$0")/../.." && project=$(pwd -P)
python=${BASE_PYTHON:-python3}
stamp=.venv/installed # written last; if it is missing, the installation is repeated
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX

say() { printf '%s\n' "$*" >&2; }
fail() { say "" && say "$*" && exit 1; }

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null) ||
	fail "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1 || echo missing). Choose one: make BASE_PYTHON=python3.12 …"

# One installation at a time. The lock belongs to descriptor 9, which this script keeps open.
{ mkdir -p .retort && touch .retort/setup.lock; } 2>/dev/null || fail "Cannot write to $project. Use a clone that you own."
exec 9>.retort/setup.lock
"$python" - <<'LOCK'
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another `make` is installing; waiting for it …", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
LOCK

# Keep the installed groups of packages and the build of torch.
installed=$(cat "$stamp" 2>/dev/null || true)
recorded() { printf '%s\n' "$installed" | sed -n "s/^$1 //p"; }
torch=$(recorded torch)
TORCH=${TORCH:-$torch}
case $TORCH in
'' | *://*) index=$TORCH ;;
cpu) index=https://download.pytorch.org/whl/cpu ;;
*) fail "TORCH=$TORCH is unknown. Use TORCH=cpu for PyTorch's CPU build, the URL of an index, or leave TORCH out." ;;
esac
groups=project files=requirements.txt
case " $* $(recorded groups) " in *" starter "*) groups="$groups starter" files="$files distillation/starter/requirements.txt" ;; esac
case " $* $(recorded groups) " in *" tests "*) groups="$groups tests" files="$files tests/requirements.txt" ;; esac
wanted="Python $version in $project
torch $TORCH
groups $groups
$(cat $files requirements.lock | cksum)"
if [ "$installed" = "$wanted" ] && [ -x .venv/bin/python ]; then exit 0; fi

trap 'say ""; say "Interrupted. The next start repeats the set-up."; exit 130' INT TERM
say "Installing $files into .venv (the first time takes a minute or more) …"
uv=$(command -v uv) || uv=
case $uv in '' | "$PWD"/.venv/*) uv=.venv/bin/uv ;; esac
works='import sys, pip; print("Python %d.%d in %s" % (*sys.version_info[:2], sys.prefix))'
if [ "$(.venv/bin/python -I -c "$works" 2>/dev/null)" != "Python $version in $project/.venv" ]; then
	rm -rf .venv
	if [ "$uv" != .venv/bin/uv ]; then
		"$uv" venv -q --seed --python "$("$python" -c 'import sys; print(sys.executable)')" .venv
	elif ! output=$("$python" -m venv .venv 2>&1); then
		rm -rf .venv
		fail "$output
$python -m venv failed. Install uv (https://docs.astral.sh/uv), or on Debian and Ubuntu: apt install python3-venv"
	fi
fi
rm -f "$stamp"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [ "$uv" = .venv/bin/uv ] && ! [ -x "$uv" ]; then
	pip install -q uv || fail "uv could not be fetched (see above). Check the network, or install uv yourself (https://docs.astral.sh/uv)."
fi

# uv does not read pip's settings: pass the indexes on.
settings=$(pip config list 2>/dev/null || true)
setting() { printf '%s\n' "$settings" | sed -nE "s/^(global|install|:env:)\.$1='(.*)'\$/\2/p" | tail -n 1 | tr ' ' ','; }
for pair in UV_DEFAULT_INDEX=index-url UV_FIND_LINKS=find-links SSL_CERT_FILE=cert; do
	value=$(setting "${pair#*=}")
	if [ -n "$value" ]; then eval "export ${pair%%=*}=\"\${${pair%%=*}:-\$value}\""; fi
done

add() {
	"$uv" pip install --python .venv/bin/python --constraints requirements.lock "$@" ||
		fail "uv could not install the packages (see above). Check the network and the space on the disk, then repeat the command."
}
if [ -n "$index" ]; then # without torch's requirements, which such an index may lack; its builds have other hashes
	again=
	if [ "$TORCH" != "$torch" ]; then again='--reinstall-package torch'; fi
	add --no-deps --no-verify-hashes --default-index "$index" $again torch
elif [ -n "${UV_DEFAULT_INDEX:-}${UV_FIND_LINKS:-}" ]; then # a mirror may have another build of this version, for example without CUDA
	add --no-deps --no-verify-hashes torch
fi
add $(printf -- '-r %s ' $files)
printf '%s\n' "$wanted" >"$stamp"
