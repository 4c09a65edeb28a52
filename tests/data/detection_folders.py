"""Small data sets with boxes, written as VOC and COCO lay theirs out."""

import json

import numpy as np

from tests.data.pictures import encode, gradient

CAT_AND_DOG = [("dog", (3, 2, 10, 8)), ("cat", (1, 1, 20, 15))]


def write_voc(root, pictures, lists, *, size=(15, 20), extension="jpg"):
    """`pictures[name]` is a list of (class, (xmin, ymin, xmax, ymax)[, difficult]) or an XML file's text."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in pictures.items():
        (root / "JPEGImages" / f"{name}.{extension}").write_bytes(encode(gradient(*size)))
        text = objects if isinstance(objects, str) else annotation(objects, size)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for part, names in lists.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


def annotation(objects, size) -> str:
    """An XML file's text; `size` (height, width), or None to leave it out."""
    things = "".join(
        f"<object><name>{name}</name>{''.join(f'<difficult>{flag}</difficult>' for flag in flags)}<bndbox>"
        + "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
        + "</bndbox></object>" for name, box, *flags in objects)
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{stated}{things}</annotation>"


def write_coco(root, parts, categories, *, size=(15, 20), folder="{}"):
    """`parts[name]` is a list, a picture at a time, of annotations (category id, (x, y, w, h)[, iscrowd])."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, pictures in parts.items():
        place = root / folder.format(part)
        place.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number, objects in enumerate(pictures):
            # Ids in an order of their own.
            image = {"id": 1000 - 7 * number, "file_name": f"{part}_{number}.png", "height": size[0], "width": size[1]}
            (place / image["file_name"]).write_bytes(encode(gradient(*size)))
            images.append(image)
            annotations += [{"id": len(annotations) + i, "image_id": image["id"], "category_id": category, "bbox": box,
                             "iscrowd": int(bool(crowd))} for i, (category, box, *crowd) in enumerate(objects)]
        np.random.default_rng(0).shuffle(annotations)
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": number, "name": name} for number, name in categories]}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
