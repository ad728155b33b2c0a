"""Which of scikit-learn's checks the estimators fail, and why."""

# For check_estimator and parametrize_with_checks. By chance of rounding each may pass, on one
# processor and not on another.
EXPECTED_FAILED_CHECKS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weight of 2 is a sequence twice up to single precision, the check compares to 7 digits"
    ),
    "check_methods_subset_invariance": (
        "matrix products of 1 to 3 sequences are summed in another order than those of many, so"
        " that an answer differs by a rounding of single precision, the check compares to 7 digits"
    ),
}
