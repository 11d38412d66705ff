#!/usr/bin/env bash
# The node's page, in a browser: what stands there is what the node does. Readers that wait, the presence maps, errors,
# both widths; nothing comes from elsewhere; and names are told to this machine alone.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 48000000 --files 12
start_registry
push_tree "$work/tree" app
blob=$(data_blob_of app)
python3 "$e2e_dir/stalling_proxy.py" "$registry" "$work/stall" >"$work/proxy" 2>"$work/proxy.log" &
wait_until test -s "$work/proxy" || fail "the proxy does not start: $(cat "$work/proxy.log")"
registry=127.0.0.1:$(<"$work/proxy")
READ_DEADLINE=${READ_DEADLINE:-20s} start_node
mount_image app "$work/mnt/app"

state() { curl -fsS -o "$work/state.json" "$@" "http://$listen/node.json"; }
# shows FILTER: whether the jq filter holds of what the page is told now.
shows() { state && jq -e "$1" "$work/state.json" >"$work/jq"; }
expect_shown() { wait_until shows "$1" || fail "the page is not told '$1': $(<"$work/state.json")"; }
by_size() { (cd "$work/tree" && find . -type f -printf '%s %p\n' | sort -nr | sed -n "$1s/^[0-9]* //p"); }
whole=$work/mnt/app/$(by_size 1) waits=$work/mnt/app/$(by_size 2)

note "a file is read, and stands in the map and in the rates"
cat "$whole" >"$work/read"
expect_shown '.mounts | length == 1'
expect_shown '.mounts[0].blobs[0] | .presentChunks > 0 and .presentChunks < .chunks and .verifiedChunks == .presentChunks'
expect_shown '.mounts[0].blobs[0].cells.present | test("9") and test("0")'
expect_shown '.rates.origin | add > 0'
[[ $(jq -r .mounts[0].mountPoint "$work/state.json") == "$work/mnt/app" ]] || fail "where it is mounted is not told"

note "a reader waits, and its chunk is under way"
echo "$blob" >"$work/stall"
dd if="$waits" of="$work/waited" bs=4096 count=1 2>"$work/dd" &
reader=$!
expect_shown '.cache.readsWaiting >= 1 and (.cache.reads[0] | .leftSeconds > 0 and .chunksMissing >= 1)'
expect_shown '.mounts[0].blobs[0] | .underWayChunks >= 1 and (.cells.underWay | test("[1-9]"))'
expect_shown '.cache.classes[] | select(.name == "demand") | .queued + .underWay + .paused >= 1'

# page WIDTH NAME: the page after it has shown what it was told, as text and as a picture.
page() {
  timeout "$wait_seconds_max" chromium --headless=new --no-sandbox --disable-gpu --user-data-dir="$work/browser" \
    --window-size="$1,1500" --virtual-time-budget=6000 --enable-logging=stderr --screenshot="$work/$2.png" --dump-dom \
    "http://$listen/" >"$work/$2.html" 2>"$work/$2.log" || fail "the browser: $(tail -n 3 "$work/$2.log")"
  ! grep -E 'Refused to|Uncaught|Content Security Policy' "$work/$2.log" >&2 || fail "the browser has something to say"
  grep -q 'data-updates="[1-9]' "$work/$2.html" || fail "the page shows nothing: $(grep -o 'data-problem="[^"]*"' "$work/$2.html")"
}
expect_on_page() { grep -q -- "$2" "$work/$1.html" || fail "'$2' does not stand on the page"; }
note "the same stands on the page"
page 1200 wide
page 390 narrow
for name in wide narrow; do
  expect_on_page "$name" "$work/mnt/app"
  expect_on_page "$name" '<span id="live" role="status"[^>]*>live</span>'
  expect_on_page "$name" 'aria-label="Presence map: [0-9]* % of [0-9.]* MB present'
  expect_on_page "$name" 'under way'
  expect_on_page "$name" '<table><thead><tr><th scope="col">Blob'
done
[[ -z ${SCREENSHOTS:-} ]] || cp "$work"/{wide,narrow}.png "$SCREENSHOTS/"

note "its error is told"
! wait "$reader" || fail "a reader of a stalled registry was given something"
expect_shown '.mounts[0].readErrors >= 1 and .readErrors >= 1 and (.errors | length > 0)'
expect_shown '.cache.readsWaiting == 0'
rm -f "$work/stall"

note "nothing from elsewhere, and nothing else at other paths"
curl -fsS -D "$work/headers" -o "$work/page.html" "http://$listen/"
grep -Eqi "^content-security-policy: default-src 'none'; script-src 'sha256-[^ ]*'; style-src 'sha256-[^ ]*'; " "$work/headers" ||
  fail "the page may load what it likes: $(<"$work/headers")"
! grep -Eo '(src|href)="(https?:)?//[^"]*"' "$work/page.html" || fail "the page names what lies elsewhere"
[[ $(curl -s -o "$work/other" -w '%{http_code}' "http://$listen/other") == 404 ]] || fail "there is something at /other"
[[ $(curl -s -o "$work/other" -w '%{http_code}' "http://$listen/node.json/") == 404 ]] || fail "there is something below /node.json"

# A page of another site that a browser on this machine shows: its name leads here, and stands in Host.
names_in() { grep -Eo "$(basename "$work")|app|sha256|${registry%:*}:[0-9]+|$(hostname)" "$1"; }
state -H 'Host: attacker.example'
! names_in "$work/state.json" >&2 || fail "names are told to whoever has a name for this machine"
shows '.mounts[0].blobs[0].cells.present | test("9")' || fail "the map is not told"
state
names_in "$work/state.json" >"$work/names" || fail "names are not told to this machine"

note "on all addresses names are kept, unless they are to be told"
umount "$work/mnt/app"
stop_node
listen=0.0.0.0:$(free_port)
start_node
listen=127.0.0.1:${listen#*:}
mount_image app "$work/mnt/app"
shows '.namesShown == false and (.mounts | length == 1)' || fail "a mount is not told"
! names_in "$work/state.json" >&2 || fail "names are told on all addresses"
stop_node
sed -i "/^operations:/a\\  names: always" "$config"
restart_node
shows '.namesShown and .mounts[0].mountPoint != null' || fail "names are not told though they are to be"
