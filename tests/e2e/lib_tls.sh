# shellcheck shell=bash disable=SC2154  # lib.sh sets the rest
# Authorities and certificates for nodes, made by openssl. Sourced after lib.sh.

tls_dir=$work/tls

# tls_authority NAME: an authority; its certificate is $tls_dir/NAME.crt.
tls_authority() {
  mkdir -p "$tls_dir/$1.d"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$tls_dir/$1.key" -out "$tls_dir/$1.crt" 2>"$tls_dir/log" || fail "openssl: $(<"$tls_dir/log")"
  : >"$tls_dir/$1.d/index.txt"
  echo 01 >"$tls_dir/$1.d/number"
  cat >"$tls_dir/$1.cnf" <<END
[ca]
default_ca = authority
[authority]
database = $tls_dir/$1.d/index.txt
crlnumber = $tls_dir/$1.d/number
certificate = $tls_dir/$1.crt
private_key = $tls_dir/$1.key
default_md = sha256
default_crl_days = 1
END
}

# tls_issue AUTHORITY NAME DNS_NAME...: $tls_dir/NAME.crt and .key, for client and server.
tls_issue() {
  local names
  names=$(printf ',DNS:%s' "${@:3}")
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" \
    -keyout "$tls_dir/$2.key" -out "$tls_dir/$2.csr" 2>"$tls_dir/log" || fail "openssl: $(<"$tls_dir/log")"
  openssl x509 -req -in "$tls_dir/$2.csr" -CA "$tls_dir/$1.crt" -CAkey "$tls_dir/$1.key" -days 1 -out "$tls_dir/$2.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "${names#,}") 2>"$tls_dir/log" ||
    fail "openssl: $(<"$tls_dir/log")"
}

# tls_revoke AUTHORITY [NAME...]: $tls_dir/AUTHORITY.crl, which names these beside those that were revoked before.
tls_revoke() {
  local name
  for name in "${@:2}"; do
    openssl ca -config "$tls_dir/$1.cnf" -revoke "$tls_dir/$name.crt" 2>"$tls_dir/log" || fail "openssl: $(<"$tls_dir/log")"
  done
  openssl ca -config "$tls_dir/$1.cnf" -gencrl -out "$tls_dir/$1.crl" 2>"$tls_dir/log" || fail "openssl: $(<"$tls_dir/log")"
}

# tls_install N FILE SOURCE...: node N's file (ca, crt, key, crl) is these from now on, all at once.
tls_install() {
  mkdir -p "$work/node$1/tls"
  cat "${@:3}" >"$work/node$1/tls/$2.new"
  chmod 0600 "$work/node$1/tls/$2.new"
  mv "$work/node$1/tls/$2.new" "$work/node$1/tls/$2"
}

# tls_node AUTHORITY N: node N is called node-N from now on, and has what proves it.
tls_node() {
  tls_issue "$1" "node-$2" sluice "node-$2.sluice"
  tls_install "$2" ca "$tls_dir/$1.crt"
  tls_install "$2" crt "$tls_dir/node-$2.crt"
  tls_install "$2" key "$tls_dir/node-$2.key"
}

# tls_config N [crl]: the part of node N's configuration that names its files.
tls_config() {
  echo 'tls:'
  echo "  ca: $work/node$1/tls/ca"
  echo "  certificate: $work/node$1/tls/crt"
  echo "  key: $work/node$1/tls/key"
  [[ ${2-} != crl ]] || echo "  crlFile: $work/node$1/tls/crl"
}
