"""Recurrent networks as scikit-learn estimators."""

from rnnopt.estimator.classifier import RNNClassifier as RNNClassifier
from rnnopt.estimator.regressor import RNNRegressor as RNNRegressor
