"""Packages eigen_digits as settings.ini describes it, with the shipped model taken in from models/."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

SHIPPED = "eigen-digits"

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def requirements(key: str) -> list[str]:
    """The requirements that settings.ini lists under `key`, one to a line."""
    return [line.strip() for line in cfg[key].splitlines() if line.strip()]


extras = {name: requirements(f"{name}_requirements") for name in ("notebook", "train")}
extras["dev"] = sorted({*requirements("dev_requirements"), *extras["notebook"], *extras["train"]})

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="MIT",
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    # The repository holds one copy of the shipped model, under models/; the wheel takes it in as a package of data.
    packages=["eigen_digits", "eigen_digits.web", "eigen_digits.shipped"],
    package_dir={"eigen_digits.shipped": f"models/{SHIPPED}"},
    package_data={"eigen_digits.web": ["*.html"], "eigen_digits.shipped": ["model.json", "model.tflite", "ink.tflite"]},
    include_package_data=False,
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    zip_safe=False,
)
