# A BOSH stemcell that compiles releases with this agent. Two lines make and use it:
#
#   docker build -t compiler .
#   docker run --rm -v "$PWD:/releases" compiler /var/vcap/bosh/bin/bosh-agent compile --output-directory=/releases /releases/X.tgz
#
# `make dist` builds the portable binary that is copied; --build-arg STEMCELL_IMAGE=... chooses another stemcell.
ARG STEMCELL_IMAGE=ghcr.io/cloudfoundry/ubuntu-noble-stemcell:latest
FROM ${STEMCELL_IMAGE}

# Another path must be below dist/ too: .dockerignore keeps everything else out of the build.
ARG BINARY=dist/bosh-agent
COPY ${BINARY} /var/vcap/bosh/bin/bosh-agent
# COPY keeps the file's mode, and COPY --chmod would need BuildKit. chmod copies the file into a layer of its own, so only when it must.
RUN test "$(stat -c %a /var/vcap/bosh/bin/bosh-agent)" = 755 || chmod 0755 /var/vcap/bosh/bin/bosh-agent

# No ENTRYPOINT: pipelines name the binary, as they do with the Go agent.
