#!/usr/bin/env python3
"""Puts an ordinary image into a registry as it is told, and prints its descriptor.

usage: put_image.py REGISTRY NAME[:TAG] [--config FILE] [--docker] [--platform OS/ARCHITECTURE[/VARIANT]] LAYER[=TYPE]...

  NAME           the image has no tag if none is given
  LAYER          a file; its media type is OCI's for .tar, .gz and .zst if none is given
  --config FILE  its configuration, whatever it is
  --docker       a manifest of docker's type
  --platform P   of the descriptor and, without --config, of the configuration
"""

import argparse
import json

from compress_image import MANIFEST, Repository, digest_of

OCI = "application/vnd.oci.image."
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TYPES = {"tar": "layer.v1.tar", "gz": "layer.v1.tar+gzip", "zst": "layer.v1.tar+zstd"}


def describe(repository, media_type, data):
    return {"mediaType": media_type, "digest": repository.upload(data), "size": len(data)}


def put_layer(repository, text):
    path, _, media_type = text.partition("=")
    with open(path, "rb") as file:
        return describe(repository, media_type or OCI + TYPES[path.rpartition(".")[2]], file.read())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("name")
    parser.add_argument("layers", nargs="*")
    parser.add_argument("--config")
    parser.add_argument("--docker", action="store_true")
    parser.add_argument("--platform", default="linux/amd64")
    args = parser.parse_intermixed_args()

    name, _, tag = args.name.partition(":")
    repository = Repository(args.registry, name)
    platform = dict(zip(("os", "architecture", "variant"), args.platform.split("/")))
    config = json.dumps({**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    if args.config:
        with open(args.config, "rb") as file:
            config = file.read()
    media_type = DOCKER_MANIFEST if args.docker else MANIFEST
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type,
                       "config": describe(repository, OCI + "config.v1+json", config),
                       "layers": [put_layer(repository, layer) for layer in args.layers]}).encode()
    digest = digest_of(body)
    repository.put(f"{repository.base}/manifests/{tag or digest}", body, media_type)
    print(json.dumps({"mediaType": media_type, "digest": digest, "size": len(body), "platform": platform}))


if __name__ == "__main__":
    main()
