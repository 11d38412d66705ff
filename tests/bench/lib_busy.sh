# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set and use the rest
# What the machine is busy with while something is measured. Sourced by scenarios.

# What is not idle was somebody's, and what the hypervisor took was not ours.
cpu_ticks() { awk '$1 == "cpu" { for (i = 2; i <= 9; ++i) all += $i; print all, all - $5 - $6 }' /proc/stat; }
disk_ticks() { awk '$3 !~ /^ram/ { print $3, $13 }' /proc/diskstats; }

busy_begin() {
  busy_started=$EPOCHREALTIME
  busy_cpu=$(cpu_ticks)
  disk_ticks >"$work/disks"
}

# busy_end: sets cpu_busy, and disk_busy of the disk that was busy most.
busy_end() {
  local milliseconds
  milliseconds=$(awk -v from="$busy_started" -v to="$EPOCHREALTIME" 'BEGIN { print (to - from) * 1000 }')
  cpu_busy=$(echo "$busy_cpu $(cpu_ticks)" | awk '{ printf "%.3f", ($4 - $2) / ($3 - $1) }')
  disk_busy=$(disk_ticks | awk -v ms="$milliseconds" -v file="$work/disks" '
    BEGIN { while ((getline line <file) > 0) { split(line, field); before[field[1]] = field[2] } }
    { busy = ($2 - before[$1]) / ms; if (busy > max) max = busy }
    END { printf "%.3f", max }')
}

# note_busy FILE: what the machine was busy with, for the line of a figure.
note_busy() { echo "$cpu_busy $disk_busy" >>"$1"; }
most_busy() {
  awk '{ if ($1 > cpu) cpu = $1; if ($2 > disk) disk = $2 } END { printf "cpu_busy=%s,disk_busy=%s", cpu, disk }' "$1"
}
