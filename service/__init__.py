__version__ = "0.2.0.dev0"  # of the whole project; packages, the API, workers and `dain --version` say it
