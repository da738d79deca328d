# A BOSH stemcell that compiles releases with this agent. To build and use it:
#
#   docker build -t compiler .
#   docker run --rm -v "$PWD:/releases" compiler /var/vcap/bosh/bin/bosh-agent compile --output-directory=/releases /releases/X.tgz
#
# `make dist` builds the portable binary that is copied. --build-arg STEMCELL_IMAGE=... chooses another stemcell.
ARG STEMCELL_IMAGE=ghcr.io/cloudfoundry/ubuntu-noble-stemcell:latest
FROM ${STEMCELL_IMAGE}

ARG STEMCELL_IMAGE
# For example --build-arg VERSION="$(dist/bosh-agent -v)".
ARG VERSION=unknown
LABEL org.opencontainers.image.title="bosh-agent" \
      org.opencontainers.image.description="A BOSH stemcell that compiles releases with bosh-agent" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${STEMCELL_IMAGE}"

# Any other path must also be in dist/: .dockerignore excludes everything else.
ARG BINARY=dist/bosh-agent
COPY ${BINARY} /usr/local/bin/bosh-agent

# For `docker run --user UID`: the stemcell's /var/vcap/bosh is closed to other users than root, but has the stemcell's version. Packages
# are compiled below /var/vcap/data and /var/vcap/packages, with logs in /var/vcap/sys/log/compilation.
# COPY keeps the file's mode, and COPY --chmod needs BuildKit. chmod copies the file into another layer, so it runs only if necessary.
RUN { test "$(stat -c %a /usr/local/bin/bosh-agent)" = 755 || chmod 0755 /usr/local/bin/bosh-agent; } && \
    mkdir -p /var/vcap/bosh/bin /var/vcap/data /var/vcap/packages /var/vcap/sys/log/compilation && \
    ln -sf /usr/local/bin/bosh-agent /var/vcap/bosh/bin/bosh-agent && \
    chmod 0711 /var/vcap/bosh && \
    chmod 1777 /var/vcap/data /var/vcap/packages /var/vcap/sys/log/compilation

# No ENTRYPOINT: pipelines name the binary, as with the Go agent.
