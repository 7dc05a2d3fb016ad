# feedgate in a container, for Kubernetes nodes: docs/kubernetes.md. Build: docker build -t feedgate .
#
# Not static: libnftnl is GPL-2.0-or-later and linked dynamically. An image with both is a distribution
# of both: the sources of libnftnl are Debian's (docs/install.md).
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libmnl-dev libnftnl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/feedgate

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libmnl0 libnftnl11 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/feedgate /usr/sbin/feedgate
# The table stays in the kernel when the container ends; `feedgate down` removes it.
ENTRYPOINT ["/usr/sbin/feedgate"]
CMD ["run"]
