#!/usr/bin/env bash
# Shows in under ten minutes what Trainyard's trainer does on this machine's first GPU: one table on standard output, and
# gpu-report.json beside this script, to be sent in.
#
# Needs libtorch with CUDA: TORCH_LIB=/path/to/torch/lib, or a python3 on the PATH that imports torch.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD

torch_lib() {
    if [ -n "${TORCH_LIB:-}" ]; then echo "$TORCH_LIB"; return; fi
    python3 -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))' 2>/dev/null || {
        echo "run.sh: no libtorch: set TORCH_LIB to torch's lib folder, or pip install torch==2.13.0" >&2
        exit 2
    }
}
lib=$(torch_lib)
[ -e "$lib/libtorch_cpu.so" ] || { echo "run.sh: TORCH_LIB is $lib, and there is no libtorch_cpu.so in it" >&2; exit 2; }
# libtorch has no stable interface for C++: programs that were built with another version do not even start.
needed=$(cat "$here/libtorch-version")
found=$(sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$lib/../version.py" 2>/dev/null || true)
[ "${found:-$needed}" = "$needed" ] || {
    echo "run.sh: $lib is libtorch $found, and this bundle was built with $needed: pip install torch==$needed" >&2
    exit 2
}
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TRAINYARD_TRAINER="$here/trainyard-trainer" TRAINYARD_GOLDEN_DIR="$here/golden" OMP_WAIT_POLICY=PASSIVE
# nvidia-smi's numbers are libtorch's.
export CUDA_DEVICE_ORDER=PCI_BUS_ID

# A rehearsal on a simulated GPU: its library is loaded into the programs, and everything is small.
on_gpu() { LD_PRELOAD="${TRAINYARD_GPU_REHEARSAL:-}" "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quoted() { sed 's/\\/\\\\/g; s/"/\\"/g' | tr -d '\n'; }

# 1. The machine.
smi=$(nvidia-smi --query-gpu=index,name,memory.total,driver_version,compute_cap --format=csv,noheader 2>/dev/null || true)
libtorch=$(on_gpu "$here/trainyard-trainer" info --libtorch)
echo "GPU       ${smi:-no nvidia-smi}"
echo "libtorch  $libtorch"

# 2. What must hold. A program that does not start is a failure, too.
began=$SECONDS
echo
status=0
on_gpu ./gpu-tests --test-threads=1 --nocapture >"$work/tests.txt" 2>&1 || status=$?
# With --nocapture a test's own lines come between its name and its result.
awk '
    /^test .* \.\.\. / { name = $2 }
    name != "" && /(^|\.\.\. )(ok|FAILED)$/ { print ($NF == "ok" ? "ok" : "FAILED"), name; name = "" }
' "$work/tests.txt" >"$work/results.txt"
grep -q . "$work/results.txt" || { cat "$work/tests.txt" >&2; exit 1; }
awk '{ printf "%-7s %s\n", $1, $2 }' "$work/results.txt"
# Why one failed, up to its backtrace.
grep -A 4 'panicked at' "$work/tests.txt" | head -n 100 || true

# 3. What NVIDIA's own checker sees in three steps. Each tensor has memory of its own meanwhile, or else it would see
# nothing but the allocator's.
sanitizer=absent
if command -v compute-sanitizer >/dev/null; then
    sanitizer=passed
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 on_gpu timeout 180 compute-sanitizer --tool memcheck --error-exitcode 9 \
        ./gpu-tests --exact waits::three_steps_wait_for_nothing --nocapture >"$work/sanitizer.txt" 2>&1 || sanitizer=failed
    [ "$sanitizer" = passed ] || { status=1; tail -n 40 "$work/sanitizer.txt" >&2; }
fi
case $sanitizer in
    absent) echo "skipped compute-sanitizer: it is not on the PATH (it comes with the CUDA toolkit)" ;;
    passed) echo "ok      compute-sanitizer: three steps" ;;
    failed) echo "FAILED  compute-sanitizer: three steps" ;;
esac

# 4. Speeds.
echo
on_gpu ./gpu-speeds 2>"$work/speeds.err" | tee "$work/speeds.txt" || { status=1; tail -n 20 "$work/speeds.err" >&2; }

{
    printf '{"version":1,"date":"%s","gpu":"%s","libtorch":%s,"seconds":%s,"tests":{' \
        "$(date -u +%FT%TZ)" "$(quoted <<<"$smi")" "$libtorch" $((SECONDS - began))
    awk '{ printf "%s\"%s\":%s", (NR > 1 ? "," : ""), $2, ($1 == "ok" ? "true" : "false") }' "$work/results.txt"
    printf '},"sanitizer":"%s","speeds":[' "$sanitizer"
    awk 'NF == 3 { printf "%s{\"name\":\"%s\",\"value\":%s,\"unit\":\"%s\"}", (n++ ? "," : ""), $1, $2, $3 }' "$work/speeds.txt"
    printf ']}\n'
} >"$here/gpu-report.json"
echo
echo "gpu-report.json has the same; $(grep -c '^ok' "$work/results.txt") of $(wc -l <"$work/results.txt") tests passed in $((SECONDS - began)) s"
exit "$status"
