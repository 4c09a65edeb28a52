"""Data sets with label maps in the layout of PASCAL VOC (Everingham et al. 2010)."""

from cvjax.data.boxes.voc import CLASSES
from cvjax.data.dataset import Dataset
from cvjax.data.label_maps.files import existing_folder, named_classes, photos_dataset
from cvjax.data.label_maps.labels import IGNORE, Labels
from cvjax.data.voc_lists import files_by_name, lists_of_parts, read_names
from cvjax.errors import DataError

VOC = ("background", *CLASSES)


_MAPS = (".png", ".jpg", ".jpeg", ".webp")  # only a PNG is a label map, the others are refused by name


def open_voc_label_maps(place: str, *, seed: int, ignore_label: int | None = None,
                        mask_values: tuple[int, ...] = ()) -> Dataset:
    """PATH with JPEGImages/*, SegmentationClass/*.png and ImageSets/Segmentation/{train,val,test}.txt.

    Lists are read as in `cvjax.data.voc_lists`. A listed picture that is missing is lost (see `Dataset`), one that has
    no label map is left out and counted; so is a part of which there is nothing. Classes are the lines of
    PATH/classes.txt, or else VOC's. For parts, arguments and errors see `photos_dataset`.
    """
    root = existing_folder(place)
    folder = root / "ImageSets" / "Segmentation"
    lists = lists_of_parts(folder, str(root))
    if "train" not in lists:
        raise DataError(f"{root} has no list of training pictures: there must be a file {folder / 'train.txt'}")
    pictures, maps = files_by_name(root / "JPEGImages"), files_by_name(root / "SegmentationClass", _MAPS)
    pairs: dict[str, list[tuple[str, str]]] = {}
    ignored: list[str] = []
    lost: list[tuple[str, str]] = []
    for part in ("train", "val", "test"):
        listed = read_names(lists[part], {*pictures, *maps}) if part in lists else []
        listed = list(dict.fromkeys(listed))
        found = [(f"JPEGImages/{pictures[name]}", f"SegmentationClass/{maps[name]}") for name in listed
                 if name in pictures and name in maps]
        missing = [name for name in listed if name not in pictures or name not in maps]
        if missing:
            ignored.append(f"{len(missing)} of {lists[part].name} without picture or label map, such as "
                           f"SegmentationClass/{missing[0]}.png")
        if found or part == "train":
            pairs[part] = found
            lost += [(str(root / "JPEGImages" / f"{name}.jpg"), "no such file") for name in missing
                     if name not in pictures]
    names = named_classes(root)
    return photos_dataset(root, pairs, names or VOC, seed=seed, meaning=Labels(IGNORE, ignore_label, mask_values),
                          ignored=ignored, known=names is None, lost=lost)
