# A BOSH stemcell that compiles releases with this agent. To build and use it:
#
#   docker build -t compiler .
#   docker run --rm -v "$PWD:/releases" compiler /var/vcap/bosh/bin/bosh-agent compile --output-directory=/releases /releases/X.tgz
#
# `make dist` builds the portable binary that is copied. --build-arg STEMCELL_IMAGE=... chooses another stemcell.
ARG STEMCELL_IMAGE=ghcr.io/cloudfoundry/ubuntu-noble-stemcell:latest
FROM ${STEMCELL_IMAGE}

# Any other path must also be in dist/: .dockerignore excludes everything else.
ARG BINARY=dist/bosh-agent
COPY ${BINARY} /var/vcap/bosh/bin/bosh-agent
# COPY keeps the file's mode, and COPY --chmod needs BuildKit. chmod copies the file into another layer, so it runs only if necessary.
RUN test "$(stat -c %a /var/vcap/bosh/bin/bosh-agent)" = 755 || chmod 0755 /var/vcap/bosh/bin/bosh-agent

# No ENTRYPOINT: pipelines name the binary, as with the Go agent.
