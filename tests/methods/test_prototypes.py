"""The prototype baseline on embeddings whose similarities are known by hand."""

import torch
import torch.nn.functional as F

from winclip_bench.methods import prototypes, thresholds


def test_scores_by_hand() -> None:
    classes = prototypes.class_prototypes([torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])])
    bank = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 4.0]])  # cosines with the axes: (0, 0, 1) and (0, 0.6, 0.8)
    found = prototypes.compare(torch.eye(3), classes, bank)
    torch.testing.assert_close(found.normal, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(found.anomalous, torch.tensor([0.0, 0.3, 0.9]))
    torch.testing.assert_close(found.score, torch.tensor([-1.0, -0.7, 0.9]))


def test_class_prototypes_weigh_images_alike() -> None:
    images = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    torch.testing.assert_close(prototypes.class_prototypes([images]), torch.full((1, 2), 0.5).sqrt())


def test_lengths_of_embeddings_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    images, bank = (torch.randn(n, 6, generator=generator) for n in (5, 4))
    classes = prototypes.class_prototypes([torch.randn(3, 6, generator=generator) for _ in range(2)])
    found = prototypes.compare(images, classes, bank)
    scaled = prototypes.compare(7 * images, classes, bank * torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    torch.testing.assert_close(found.score, scaled.score)


def test_turned_score_and_threshold_decide_as_the_original_does() -> None:
    """Written out: the original calls anomalous what has a published score below 0.2, which grows with normality."""
    generator = torch.Generator().manual_seed(1)
    near = F.normalize(torch.randn(200, 4, generator=generator) + 1, dim=-1)
    classes = prototypes.class_prototypes([near[:5], near[5:10]])
    bank = near[10:20] - 0.5
    found = prototypes.compare(near, classes, bank)
    published = torch.stack(
        [
            max(F.cosine_similarity(image, one, dim=0) for one in classes)
            - F.cosine_similarity(image[None], bank).mean()
            for image in near
        ]
    )
    torch.testing.assert_close(found.normality, published, atol=1e-6, rtol=0)
    clear = (published - 0.2).abs() > 1e-5
    decided = thresholds.fixed(prototypes.THRESHOLD).decide(found.score)
    assert torch.equal(decided[clear], (published < 0.2)[clear])
    assert 0 < int(decided.sum()) < len(near)
    assert torch.equal(found.score, -found.normality)
