"Install protein_llm from settings.ini, the one place that names the version and the requirements."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text()
    if (root / "README.md").exists()
    else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    packages=find_packages(include=["protein_llm", "protein_llm.*"]),
    python_requires=f">={cfg['min_python']},<3.13",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split()},
    entry_points={
        "console_scripts": ["protein-llm = protein_llm.apps.cli:main"],
        "nbdev": [f"{cfg['lib_path']} = {cfg['lib_path']}._modidx:d"],
    },
)
