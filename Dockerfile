# JupyterLab on the notebooks, without a GPU:
#   docker build -t pwl-lab . && docker run --rm -p 127.0.0.1:8888:8888 pwl-lab
FROM python:3.13-slim

RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* && \
    pip install --no-cache-dir uv==0.13.9 && useradd --create-home learner
USER learner
WORKDIR /home/learner/pwl_lab
# Outside the project's folder: the dev container works in the reader's checkout, which lies elsewhere, with the same environment.
ENV UV_PROJECT_ENVIRONMENT=/home/learner/venv PATH=/home/learner/venv/bin:$PATH OMP_WAIT_POLICY=PASSIVE

# What the lock names comes first: an edit of the code then leaves this layer as it is.
COPY --chown=learner pyproject.toml uv.lock ./
RUN uv sync --locked --no-install-project --no-cache
COPY --chown=learner . .
RUN uv sync --locked --no-cache

EXPOSE 8888
CMD ["jupyter", "lab", "notebooks", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
