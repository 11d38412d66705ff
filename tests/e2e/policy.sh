#!/usr/bin/env bash
# Programs called as containerd's image verifiers are decide which images a node has to do with: of what they refuse, or
# are not done with in time, nothing but the manifest is fetched, by a mount, a hint or the mirror.
source "$(dirname "$0")/lib.sh"

mirror=127.0.0.1:$(free_port)
registry_access_log=true
policy=('policy:' "  verifierDir: \"$work/verifiers\"" '  timeout: 1s' 'mirror:' "  listen: \"$mirror\"")
mkdir "$work/tree" "$work/verifiers"
cat >"$work/verifiers/names" <<END
#!/bin/sh
# -name NAME -digest DIGEST -stdin-media-type TYPE
cat >"$work/descriptor"
case \$2 in
*/good*) exit 0 ;;
*/slow*) sleep 60 ;;
esac
echo "only what is good"
exit 1
END
chmod 755 "$work/verifiers/names"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 3000000 --files 20
start_registry
start_node "${policy[@]}"
for name in good bad slow; do push_tree "$work/tree" "$name"; done
asked_blobs() { grep -c "\"[A-Z]* /v2/$1/blobs/.*sluice" "$work/registry.log" || true; }
decisions() { metric sluice_policy_decisions_total "\"$1\""; }
# answer NAME: how the mirror answers for its manifest.
answer() { curl -sS -o "$work/body" -w '%{http_code}' "http://$mirror/v2/$1/manifests/1?ns=$registry"; }
declare -A pushed
for name in good bad slow; do pushed[$name]=$(asked_blobs "$name"); done

note "what is refused is not mounted, hinted at or mirrored, and the reason is told"
expect_failure $exit_refused 'policy of this node: .*/names says of .*/bad:1 .*exit code 1: only what is good' \
  mount_image bad "$work/mnt/bad"
expect_failure $exit_refused 'only what is good' sluice prefetch submit "$registry/bad:1"
[[ $(answer bad) == 403 ]] || fail "the mirror answers $(answer bad)"
(($(decisions denied) == 1)) || fail "$(decisions denied) decisions: what was said holds for a minute"

note "who does not answer in time refuses, too"
expect_failure $exit_failed 'did not answer in time' mount_image slow "$work/mnt/slow"
[[ $(answer slow) == 403 ]] || fail "the mirror answers $(answer slow)"
(($(decisions timed_out) >= 1)) || fail "it is not counted"

note "nor are their blobs to be had without them"
blob_answer() { curl -sS -o "$work/body" -w '%{http_code}' "http://$mirror/v2/$1/blobs/$(stored_blob_of "$1")?ns=$registry"; }
[[ $(blob_answer bad) == 404 ]] || fail "the mirror gives a blob of what is refused"
[[ $(blob_answer good) == 404 ]] || fail "the mirror gives a blob of what nobody was asked of"
expect_failure $exit_refused 'asked of images: hint at the image' \
  sluice prefetch submit --blob "$registry/bad@$(stored_blob_of bad)"
for name in bad slow; do
  [[ $(asked_blobs "$name") == "${pushed[$name]}" ]] || fail "more than the manifest of $name was asked for"
done

note "what is let pass is mounted"
mount_image good "$work/mnt/good"
reads_right "$work/tree" "$work/mnt/good" || fail "not all is there"
digest=$(image_by_digest good)
[[ $(jq -r .digest "$work/descriptor") == "${digest#*@}" ]] || fail "another descriptor: $(<"$work/descriptor")"
[[ $(answer good) == 200 ]] || fail "the mirror answers $(answer good)"
[[ $(blob_answer good) == 200 ]] || fail "the mirror gives no blob of what was let pass"
sluice umount "$work/mnt/good" >&2

note "a folder that everybody may write to decides nothing"
stop_node
chmod 777 "$work/verifiers"
expect_failure 1 'policy.verifierDir: .*written to by everybody.*chmod' "$SLUICE_BIN/sluiced" --config "$config"
