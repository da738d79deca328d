#!/bin/bash
# Runs every program of the Go release, with all compiled packages in /var/vcap/packages, and checks its behavior. Needs only bash,
# coreutils and the packages. Prints one line per check and stops at the first failure.
source "$(dirname "${BASH_SOURCE[0]}")/../smoke.bash"

unpacked certinfo golang-1-linux healthcheck logfilter lookup render squash

for program in certinfo healthcheck logfilter lookup render; do
  PATH="${packages}/${program}/bin:${PATH}"
done

# fails WHAT WORDS COMMAND...: the command must fail and print these words.
fails() {
  local what=$1 words=$2
  shift 2
  if "$@" >output 2>&1; then fail "${what}: it passes"; fi
  [[ $(<output) == *"${words}"* ]] || fail "${what}: expected '${words}', got '$(<output)'"
  ok "${what}: $(tail -n 1 output)"
}

# The installed toolchain runs, and it compiled the programs.
source "${packages}/golang-1-linux/bosh/runtime.env"
version=$(go env GOVERSION)
equal "the toolchain is below its package" "${packages}/golang-1-linux" "$(go env GOROOT)"
for program in certinfo healthcheck logfilter lookup render; do
  equal "${program} was made by it" "${program} 1.0 (${version})" "$("${program}" --version)"
done
(
  source "${packages}/golang-1-linux/bosh/compile.env"
  equal "the build cache is in the data directory" /var/vcap/data/golang-1-linux/cache "$(go env GOCACHE)"
)
[[ $(tr -d '\0' <"${packages}/lookup/bin/lookup" | grep -ac /var/vcap/data || true) == 0 ]] || fail "lookup knows where it was compiled"
ok "no program knows where it was compiled"
equal "the C library is linked" "squash 1.0" "$(logfilter -library)"

certinfo make . tools.example
certinfo inspect server.pem >inspected
[[ $(<inspected) == *'"subject": "CN=tools.example"'*'"issuer": "CN=certinfo authority"'*'"days_left": 30'* ]] || fail "certinfo: $(<inspected)"
certinfo verify ca.pem server.pem tools.example
ok "certinfo makes and verifies a certificate"
fails "certinfo rejects another name" "is for [tools.example] and not for other.example" certinfo verify ca.pem server.pem other.example
mkdir other && certinfo make other tools.example
fails "certinfo rejects another authority" "unknown authority" certinfo verify other/ca.pem server.pem tools.example
fails "certinfo rejects what is no certificate" "no certificate" certinfo inspect server.key

# Over HTTPS with that certificate.
healthcheck serve -cert server.pem -key server.key address 2>served &
server=$!
trap 'kill "${server}"; rm -rf "${scratch}"' EXIT
until [[ -s address ]]; do
  kill -0 "${server}" || fail "healthcheck: the server has ended"
  sleep 0.05
done
url=https://$(<address)
checks() {
  echo "{\"ca\": \"$1\", \"endpoints\": [{\"name\": \"one\", \"url\": \"${url}$2\", \"server_name\": \"$3\", \"contains\": \"well\"},
    {\"name\": \"two\", \"url\": \"${url}/down\", \"server_name\": \"$3\", \"status\": 503}]}" >checks.json
}
checks ca.pem /healthz tools.example
equal "healthcheck finds everything healthy" "true true" "$(healthcheck check checks.json | sed -n 's/.*"healthy": //p' | paste -sd' ')"
checks ca.pem /healthz other.example
fails "healthcheck compares the name" "not other.example" healthcheck check checks.json
checks other/ca.pem /healthz tools.example
fails "healthcheck wants the authority" "unknown authority" healthcheck check checks.json
checks ca.pem /down tools.example
fails "healthcheck compares the status" "status 503 instead of 200" healthcheck check checks.json
kill "${server}" && wait "${server}" || fail "healthcheck: the server does not exit cleanly"
trap 'rm -rf "${scratch}"' EXIT
ok "healthcheck stops on SIGTERM"

for ((i = 0; i < 5000; i++)); do
  printf '{"level": "%s", "n": %d, "user": {"name": "u%d", "token": "secret-%d"}}\n' "$((i % 10 ? 0 : 1))" "${i}" "$((i % 7))" "$((i % 7))"
done >log
equal "logfilter selects" 500 "$(logfilter -match level=1 <log | wc -l)"
equal "logfilter selects by two fields" 72 "$(logfilter -match level=1 -match 'user.name=^u0$' <log | wc -l)"
equal "logfilter hides" 7 "$(logfilter -hide user.token <log | grep -o 'hidden-[0-9a-f]*' | sort -u | wc -l)"
if logfilter -hide user.token <log | grep -q secret; then fail "logfilter: a secret is left"; fi
logfilter <log >plain
logfilter -pack <log >packed
(($(stat -c %s packed) * 4 < $(stat -c %s plain))) || fail "logfilter: $(stat -c %s plain) bytes became $(stat -c %s packed)"
cmp <(logfilter -unpack <packed) plain || fail "logfilter: the lines came back changed"
ok "logfilter packs and unpacks: $(stat -c %s plain) -> $(stat -c %s packed) bytes"
head -c 20000 packed >cut
fails "logfilter notices what is missing" "damaged frame" logfilter -unpack <cut
echo 'no json' >bad
fails "logfilter names a bad line" "line 1: " logfilter <bad

printf '192.0.2.1 one one.example # the first\n192.0.2.2 two\n2001:db8::1 six\n' >hosts
equal "lookup finds and keeps" $'one 192.0.2.1\nTWO 192.0.2.2\none 192.0.2.1\nsix none\n3 asked, 1 from the cache' \
  "$(lookup hosts one TWO one six)"
equal "lookup keeps nothing for no time" "2 asked, 0 from the cache" "$(lookup -ttl 0 hosts one one | tail -n 1)"
fails "lookup refuses an invalid name" "not a name" lookup hosts one..example

echo '{"title": "A <b> & \"c\"", "server": {"port": 80}, "users": {"b": 2, "a": 1}}' >properties.json
echo '<p title="{{p "title"}}">{{.title}}</p><script>var t = {{.title}}</script>' >page.html
equal "render escapes HTML by place" \
  '<p title="A &lt;b&gt; &amp; &#34;c&#34;">A &lt;b&gt; &amp; &#34;c&#34;</p><script>var t = "A \u003cb\u003e \u0026 \"c\""</script>' \
  "$(render properties.json page.html)"
echo '{{.title | upper}} {{p "server.port"}}{{range $k := keys .users}} {{$k}}{{end}}{{if has "no"}} no{{end}}' >page.txt
equal "render leaves text alone" 'A <B> & "C" 80 a b' "$(render properties.json page.txt)"
echo '{{p "server.host"}}' >missing.txt
fails "render names what is missing" "there is no property server.host" render properties.json missing.txt
