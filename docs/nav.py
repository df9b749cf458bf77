"""A hook of MkDocs: guides that mkdocs.yml does not name come behind those that it does, sorted by name."""

import pathlib


def on_config(config):
    (guides,) = (entry["Guides"] for entry in config["nav"] if isinstance(entry, dict) and "Guides" in entry)
    folder = pathlib.Path(config["docs_dir"])
    found = sorted(path.relative_to(folder).as_posix() for path in (folder / "guides").glob("*.md"))
    guides += [page for page in found if page not in guides]
    return config
