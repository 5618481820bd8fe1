# The two commands in a container: `docker build -t protein_llm .`, then
# `docker run --rm --init -v "$PWD/runs:/work/runs" protein_llm` for `make reproduce`, or with `make test` behind it.
# The folder runs/ must be there and belong to user 1000, or give `--user "$(id -u)" -e HOME=/tmp`.
# It hides what the image has in its own runs/, so that the encoder's weights (31 MB) are fetched once more.
# Read against the Makefile, scripts/setup.sh and requirements.lock; never built where it was written.
FROM python:3.12-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make g++ \
    && rm -rf /var/lib/apt/lists/*

# no root: browsers and notebooks refuse it
RUN useradd --create-home --uid 1000 protein && mkdir /work && chown protein /work
USER protein
WORKDIR /work

COPY --chown=protein . .
RUN make setup

CMD ["make", "reproduce"]
