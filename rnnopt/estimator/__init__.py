"""Recurrent networks as scikit-learn estimators.

They build tasks and train with `training/`. From `runs/` they have the export to ONNX, and the
networks of finished runs.
"""

from rnnopt.estimator.classifier import RNNClassifier as RNNClassifier
from rnnopt.estimator.options import RNNOptions as RNNOptions
from rnnopt.estimator.regressor import RNNRegressor as RNNRegressor
