"""Closed-form ridge regression; the regularization strength is chosen by leave-one-out error."""

import numpy as np

STRENGTHS = 10.0 ** np.arange(-6, 4)  # as shares of the features' mean square


def ridge_predict(train: np.ndarray, targets: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge predictions [M D] for test features [M F], fitted on features [N F] and targets [N D]."""
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(scale.max(), 1e-12)] = np.inf  # constant features are ignored
    train_x, test_x = ((part - mean) / scale for part in (train, test))
    target_mean = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(train_x @ train_x.T)
    values = np.maximum(values, 0)
    rotated = vectors.T @ (targets - target_mean)
    best_error, best_dual = np.inf, np.zeros_like(rotated)
    for strength in STRENGTHS * max(values.mean(), 1e-12):
        inverse = 1 / (values + strength)
        dual = vectors @ (inverse[:, None] * rotated)
        # Leave-one-out residuals. The degree of freedom of the mean is not the features'.
        residuals = dual / ((vectors**2) @ inverse - 1 / (len(train_x) * strength))[:, None]
        if (error := float((residuals**2).mean())) < best_error:
            best_error, best_dual = error, dual
    return test_x @ (train_x.T @ best_dual) + target_mean


def accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Test accuracy of one-versus-all ridge regression on integer labels."""
    classes, numbers = np.unique(labels, return_inverse=True)
    predictions = classes[ridge_predict(train, np.eye(len(classes))[numbers], test).argmax(axis=1)]
    return float((predictions == truth).mean())


def r2_score(predictions: np.ndarray, truth: np.ndarray) -> float:
    """R2 over all columns jointly."""
    return float(1 - ((predictions - truth) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())
