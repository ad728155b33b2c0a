"""The version of the package, which setuptools reads here."""

VERSION = "0.1.0"
