# A workspace: JupyterLab with README.ipynb, and the environment that ./run.sh makes, from the locks in requirements/.
#
#   docker build -t rayllm-batch .                          for a CPU
#   docker build -t rayllm-batch --build-arg KIND=gpu .     for NVIDIA GPUs: then also --gpus all
#   docker run --rm -it --shm-size 8g -p 127.0.0.1:8888:8888 rayllm-batch
#
# Its steps for a CPU were run in a bare Debian root (debootstrap --variant=minbase bookworm); no image was built.
FROM debian:bookworm-slim
ARG KIND=cpu
# vLLM and torch compile with gcc and Python's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc g++ git python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 dev && install -d -o dev -g dev /opt/rayllm_batch /workspace
USER dev
# Beside the workspace, over which a devcontainer mounts the checkout.
WORKDIR /opt/rayllm_batch
COPY --chown=dev:dev requirements requirements
COPY --chown=dev:dev scripts/environment.sh scripts/
RUN bash -euc '. scripts/environment.sh; make_environment "$1"' build "$KIND" && rm -rf ~/.cache
ENV PATH=/opt/rayllm_batch/.venv.$KIND/bin:$PATH
WORKDIR /workspace
COPY --chown=dev:dev . .
RUN ln -s "/opt/rayllm_batch/.venv.$KIND" . && bash -euc '. scripts/environment.sh; add_package "$1"' add ".venv.$KIND"
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "README.ipynb"]
