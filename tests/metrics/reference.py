"""Slow and plain versions of the metrics, written from the definitions, and scikit-learn where it has them."""

import numpy as np
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve


def regions_of(masks, connectivity=8):
    """[(image, rows, columns)] of every region of every mask."""
    return [
        (image, *region.coords.T)
        for image, mask in enumerate(masks)
        for region in regionprops(label(mask, connectivity=2 if connectivity == 8 else 1))
    ]


def pro_curve(maps, masks, thresholds, connectivity=8, strict=False):
    """FPR and PRO at each threshold, one threshold, one region at a time."""
    regions = regions_of(masks, connectivity)
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    above = np.greater if strict else np.greater_equal
    rate = [above(normal, t).mean() for t in thresholds]
    overlap = [np.mean([above(maps[i][r, c], t).mean() for i, r, c in regions]) for t in thresholds]
    return np.array(rate), np.array(overlap)


def aupro(maps, masks, limit, connectivity=8):
    """Trapezoids over every distinct score, cut at the limit by linear interpolation."""
    every = np.unique(np.concatenate([np.ravel(m) for m in maps]))[::-1]
    rate, overlap = pro_curve(maps, masks, every, connectivity)
    rate, overlap = np.concatenate(([0.0], rate)), np.concatenate(([0.0], overlap))
    area = 0.0
    for x0, x1, y0, y1 in zip(rate, rate[1:], overlap, overlap[1:], strict=False):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def aupro_by_regions(maps, masks, limit, connectivity=8):
    """The mean over regions of scikit-learn's ROC area up to the limit, each against all normal pixels. Fast."""
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    areas = []
    for image, rows, columns in regions_of(masks, connectivity):
        scores = np.concatenate([maps[image][rows, columns], normal])
        labels = np.arange(len(scores)) < len(rows)
        rate, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
        inside = rate < limit
        end = np.interp(limit, rate, recall)
        areas.append(auc(np.append(rate[inside], limit), np.append(recall[inside], end)) / limit)
    return np.mean(areas)


def aupro_200(maps, masks, limit=0.3):
    """The literature's loop: 200 thresholds from the lowest score, strictly above, FPR below the limit, stretched."""
    low, high = min(np.min(m) for m in maps), max(np.max(m) for m in maps)
    thresholds = [float(low) + i * (float(high) - float(low)) / 200 for i in range(200)]
    rate, overlap = pro_curve(maps, masks, thresholds, strict=True)
    kept = rate < limit
    if kept.sum() == 0 or rate[kept].min() == rate[kept].max():
        return None
    rate = (rate[kept] - rate[kept].min()) / (rate[kept].max() - rate[kept].min())
    return auc(rate, overlap[kept])


def ranking(scores, labels):
    """AUROC, F1-max, AP and the trapezoid, by scikit-learn."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return {
        "auroc": roc_auc_score(labels, scores),
        "f1": f1.max(),
        "ap": average_precision_score(labels, scores),
        "aupr": auc(recall, precision),
    }


def flat(arrays):
    """All pixels of all images in one row."""
    return np.concatenate([np.ravel(a) for a in arrays])
