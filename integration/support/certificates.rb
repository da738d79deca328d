# Creates keys and certificates like a Director (RSA, keys as PKCS#1; on request elliptic curves, keys as SEC1). Reads JSON from stdin:
#   {"issuers": {"ca": {"certificate": PEM, "key": PEM}},
#    "wanted": [{"name": "agent", "issuer": "ca", "subject": [["CN", "x"]], "names": ["IP:127.0.0.1"], "usage": "clientAuth",
#      "elliptic": false}]}
# and prints {"agent": {"certificate": PEM, "key": PEM}}. A certificate that names itself as its issuer is an authority.
# Ruby, because the openssl command refuses the Director's country "USA", which is longer than two letters.
require 'json'
require 'openssl'

input = JSON.parse($stdin.read)
issuers = input['issuers'].transform_values do |pair|
  { certificate: OpenSSL::X509::Certificate.new(pair['certificate']), key: OpenSSL::PKey.read(pair['key']) }
end
made = {}
input['wanted'].each do |wanted|
  key = wanted['elliptic'] ? OpenSSL::PKey::EC.generate('prime256v1') : OpenSSL::PKey::RSA.new(2048)
  certificate = OpenSSL::X509::Certificate.new
  certificate.version = 2
  certificate.serial = rand(1 << 60)
  certificate.subject = OpenSSL::X509::Name.new(wanted['subject'])
  certificate.public_key = key
  certificate.not_before = Time.now - 3600
  certificate.not_after = Time.now + 86_400
  authority = wanted['issuer'] == wanted['name']
  issuer = authority ? { certificate: certificate, key: key } : made[wanted['issuer']] || issuers.fetch(wanted['issuer'])
  certificate.issuer = issuer[:certificate].subject

  extensions = OpenSSL::X509::ExtensionFactory.new(issuer[:certificate], certificate)
  add = ->(*extension) { certificate.add_extension(extensions.create_extension(*extension)) }
  add['basicConstraints', authority ? 'CA:TRUE' : 'CA:FALSE', true]
  add['keyUsage', authority ? 'keyCertSign,cRLSign' : 'digitalSignature,keyEncipherment', true]
  add['extendedKeyUsage', wanted['usage'], true] if wanted['usage']
  add['subjectAltName', wanted['names'].join(','), false] unless wanted['names'].empty?
  certificate.sign(issuer[:key], OpenSSL::Digest.new('SHA256'))
  made[wanted['name']] = { certificate: certificate, key: key }
end
puts JSON.generate(made.transform_values { |pair| pair.transform_values(&:to_pem) })
