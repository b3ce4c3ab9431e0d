"""The front end of pictures: what it computes, what it learns, and that it does not depend on what it should not."""

import numpy as np
import pytest
import torch

from models import image
from models.classifier import Classifier, Standardize
from models.frontend import build, state_of
from models.image import Picture
from models.mlp import MLP


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth noise in colour, uint8 (40, 32, 32, 3)."""
    coarse = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (255 * fine).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.fixture(scope="module")
def front(pictures: torch.Tensor) -> Picture:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "PATCHES", 4000)
        front = Picture(atoms=30)
        front.load_state_dict(front.learn(pictures))
    return front


def test_groups_cover_all_features_of_every_size() -> None:
    for size, color in ((16, True), (28, False), (32, True), (47, True)):
        front = Picture(size=size, color=color, atoms=5)
        spans = front.groups()
        assert [start for _, start, _ in spans] == [0, *(stop for *_, stop in spans[:-1])]
        assert spans[-1][2] == front.n_features == front(front.example()).shape[1]


def test_quadrants_tell_where_a_feature_is(front: Picture, pictures: torch.Tensor) -> None:
    quadrants, before = front.quadrants()[0], front(pictures[:1])
    assert quadrants.shape == (front.n_features,)
    for number, (down, across) in enumerate(((0, 0), (0, 29), (29, 0), (29, 29))):
        changed = pictures[:1].clone()
        changed[:, down : down + 3, across : across + 3] = 255 - changed[:, down : down + 3, across : across + 3]
        differs = ((front(changed) - before).abs() > 1e-6)[0]
        assert set(quadrants[differs].tolist()) == {number}
        assert all(differs[start:stop].any() for _, start, stop in front.groups())
    for size, color in ((16, True), (20, False), (47, True)):
        other = Picture(size=size, color=color, atoms=5)
        quadrants, same = other.quadrants()
        assert (quadrants.bincount() > 0.15 * other.n_features).tolist() == [True] * 4
        first = (quadrants == 0).nonzero().flatten()
        assert torch.equal(same[first], first)
        assert set(quadrants[same].tolist()) == {0}
        for _, start, stop in other.groups():
            assert start <= same[start:stop].min() <= same[start:stop].max() < stop
    quadrants, same = front.quadrants()  # of an even number of cells
    for number in range(4):
        assert torch.equal(same[quadrants == number], same[quadrants == 0])


def test_responses_are_those_of_whitened_patches_to_the_nearest_atoms(front: Picture, pictures: torch.Tensor) -> None:
    """Coates & Ng 2011, computed patch by patch."""
    x = pictures[:1].permute(0, 3, 1, 2).double()
    patches = torch.nn.functional.unfold(x, front.patch)[0].T
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / torch.sqrt(patches.square().sum(1, keepdim=True) / (front.d - 1) + image.CONTRAST)
    rows = front.kernel.flatten(1).double()
    white, product = torch.split(patches @ rows.T - front.bias, [front.d, front.atoms], 1)
    distance = torch.sqrt(white.square().sum(1, keepdim=True) - 2 * product + front.squares)
    responses = torch.relu(distance.mean(1, keepdim=True) - distance).T.reshape(-1, 27, 27)
    expected = torch.stack([responses[:, i : i + 14, j : j + 14].mean((1, 2)) for i in (0, 13) for j in (0, 13)], 1)
    found = front(pictures[:1])[0, -4 * front.atoms :]
    np.testing.assert_allclose(found, expected.flatten(), atol=5e-3)


def test_the_same_pictures_give_the_same_dictionary(front: Picture, pictures: torch.Tensor) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "PATCHES", 4000)
        again = front.learn(pictures)
    known = front.state_dict()
    assert again.keys() == known.keys() - {"share"}  # features, which are kept by it, do not depend on the share
    assert all(torch.equal(tensor, known[name]) for name, tensor in again.items())
    copy = build({"kind": "image", "atoms": 30}, state_of(front))
    torch.testing.assert_close(copy(pictures[:2]), front(pictures[:2]), rtol=0, atol=0)


def test_features_of_a_sample_do_not_depend_on_its_batch(front: Picture, pictures: torch.Tensor) -> None:
    torch.testing.assert_close(front(pictures)[7], front(pictures[7:8])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(front.traced()(pictures[7:8]), front(pictures[7:8]), rtol=0, atol=0)


def test_gradients_do_not_depend_on_light_and_colours_do(front: Picture, pictures: torch.Tensor) -> None:
    def part(picture: torch.Tensor, kind: str) -> torch.Tensor:
        found = [front(picture)[:, a:b] for name, a, b in front.groups() if name.startswith(kind)]
        return torch.cat(found, 1)

    dark = (pictures[:5].float() * 0.5).to(torch.uint8)
    change = (part(dark, "gradients") - part(pictures[:5], "gradients")).abs().mean()
    spread = part(pictures, "gradients").std(0).mean()
    assert change < 0.35 * spread
    assert (part(dark, "means") - part(pictures[:5], "means")).abs().mean() > 0.15


def test_edges_have_no_sign_and_gradients_have(front: Picture, pictures: torch.Tensor) -> None:
    named = {name.split()[0]: (start, stop) for name, start, stop in front.groups()}
    change = (front(255 - pictures[:5]) - front(pictures[:5])).abs()
    assert change[:, slice(*named["edges"])].max() < 1e-4
    assert change[:, slice(*named["gradients"])].mean() > 0.05


def test_grey_front_ends_do_not_see_colours(pictures: torch.Tensor) -> None:
    gray = Picture(color=False, atoms=5)
    luma = (pictures[:3].float() @ torch.tensor(image.LUMA)).round().to(torch.uint8)
    same = gray(luma[..., None].expand(-1, -1, -1, 3))
    assert (gray(pictures[:3]) - same).abs().max() < 0.05


def test_a_response_that_hardly_ever_varied_does_not_count_more_than_all_others(front: Picture) -> None:
    """One of a hundred training pictures wakes a rare atom a little, a later picture wakes it as others are woken."""
    x = torch.rand(100, front.n_features, generator=torch.Generator().manual_seed(1))
    rare, constant = front.n_features - 1, front.n_features - 2
    x[:, rare] = x[:, constant] = 0.0
    x[0, rare] = 1e-3
    standardize = Standardize(front.n_features).fit(x, front)
    later = torch.full((1, front.n_features), 0.5)
    assert standardize(later).abs().max() < 2 / image.LEAST_DEVIATION
    assert standardize(x)[:, constant].tolist() == [0.0] * 100


def test_where_most_of_a_kind_are_constant_the_others_still_bound_a_feature(front: Picture) -> None:
    """The colours of dark pictures: nearly all bins are empty in each of them, and one hardly ever is not."""
    x = torch.rand(100, front.n_features, generator=torch.Generator().manual_seed(1))
    start, stop = next((start, stop) for name, start, stop in front.groups() if name == "colours")
    x[:, start + 10 : stop] = 0.0
    x[0, stop - 1] = 1e-3
    later = torch.full((1, front.n_features), 0.5)
    assert Standardize(front.n_features).fit(x, front)(later)[:, start:stop].abs().max() < 10 / image.LEAST_DEVIATION


def test_colours_and_patches_count_as_much_as_their_share_says(front: Picture, pictures: torch.Tensor) -> None:
    other = build({"kind": "image", "atoms": 30}, state_of(front) | {"share": np.array(0.25, np.float32)})
    x = front(pictures)
    alike, less = (Standardize(front.n_features).fit(x, one)(x) for one in (front, other))
    for name, start, stop in front.groups():
        share = 1.0 if name.startswith(("gradients", "edges")) else 0.25
        assert torch.allclose(less[:, start:stop], share * alike[:, start:stop], atol=1e-5), name


def test_what_an_earlier_version_has_learned_can_still_be_used(front: Picture) -> None:
    before = state_of(front)
    del before["share"]
    now = build({"kind": "image", "atoms": 30}, before)
    assert now.weights is not None
    assert set(now.weights.tolist()) == {1.0}
    classifier = Classifier(front, Standardize(front.n_features), MLP(front.n_features, [2], 2, "relu"), "multiclass")
    tensors = classifier.state_dict()
    del tensors["frontend.share"]
    classifier.load_state_dict(tensors)
