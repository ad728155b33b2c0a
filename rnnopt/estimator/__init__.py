"""Recurrent networks as scikit-learn estimators.

They build tasks and train with `training/`; nothing here opens run folders.
"""

from rnnopt.estimator.classifier import RNNClassifier as RNNClassifier
from rnnopt.estimator.options import RNNOptions as RNNOptions
from rnnopt.estimator.regressor import RNNRegressor as RNNRegressor
