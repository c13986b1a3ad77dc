#!/usr/bin/env bash
# Runs every benchmark; prints the machine, then `name value unit` lines with the target where there is one, and keeps
# the figures in target/bench/figures.json.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/bench
lines=target/bench/figures.txt

# On two cores with everything on the one machine.
targets='scheduler_submit_64_callers >=5000
scheduler_submit_one_caller_p50 <=2
scheduler_submit_jobs >=100000
scheduler_ack_to_agent_p50 <=1
scheduler_ack_to_agent_p99 <=5
scheduler_noop_jobs >=5000
scheduler_metric_events >=10000
scheduler_cores_at_10000_metric_events_per_second <=0.5
scheduler_submit_at_100000_queued_p99 <=10
scheduler_get_at_100000_queued_p99 <=10
scheduler_list_at_100000_queued_p99 <=10
scheduler_cancel_at_100000_queued_p99 <=10
scheduler_memory_at_100000_queued <=300
scheduler_restart_with_100000_queued <=3
data_push_10000_images >=300
data_push_unchanged <=2
data_pull_10000_images >=300
page_first_paint_p50 <=100
scheduler_cores_of_50_pages <=0.05'

model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
memory=$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)
echo "machine: ${model:-unknown processor}, $(nproc) cores, $memory GiB, Linux $(uname -r), load $(cut -d ' ' -f 1 /proc/loadavg)"
{ cargo bench --locked --workspace --bench placement --bench submit --bench reconnect --bench takeover --bench load --bench loader --bench start --bench step --bench fed_step --bench validation --bench idle 2>target/bench/log.txt; deploy/bench_data.py target/release; .tools/python/bin/python deploy/bench_page.py target/release; } | grep -E '^[A-Za-z0-9_.:/-]+ -?[0-9][0-9.e+-]* [^ ]+$' | tee $lines |
    awk -v targets="$targets" '
        BEGIN { count = split(targets, all, "\n"); for (i = 1; i <= count; i++) { split(all[i], one, " "); target[one[1]] = one[2] } }
        !($1 in target) { print; next }
        {
            bound = substr(target[$1], 3) + 0
            met = substr(target[$1], 1, 1) == ">" ? $2 + 0 >= bound : $2 + 0 <= bound
            print $0, "(target " target[$1] ", " (met ? "met" : "MISSED") ")"
        }
        { fflush() }'
awk 'BEGIN { print "[" } { printf "%s  {\"name\": \"%s\", \"value\": %s, \"unit\": \"%s\"}", (NR > 1 ? ",\n" : ""), $1, $2, $3 }
     END { print "\n]" }' $lines >target/bench/figures.json
