"""The attributes a synthetic product can have, their values, and the words people use for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, Language] = ("en", "zh")


@dataclass(frozen=True)
class Value:
    """One value of an attribute.

    Attributes:
      key: name in the truth table.
      en, zh: words for it; sellers write the first, shoppers mostly the first and now and then another.
      weight: how common the value is among products, relative to the attribute's other values.
    """

    key: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    weight: float = 1.0

    def words(self, language: Language) -> tuple[str, ...]:
        """The words for this value in one language."""
        return self.en if language == "en" else self.zh


def _named(*pairs: tuple[str, str]) -> tuple[Value, ...]:
    """Values with one word in each language; the English word in lower case is the key."""
    return tuple(Value(en.lower(), (en,), (zh,)) for en, zh in pairs)


def _counted(unit: str, zh_unit: str, *numbers: str) -> tuple[Value, ...]:
    """Quantities: "65W" and, in Chinese, also "65瓦"."""
    return tuple(Value(f"{n}{unit.lower()}", (f"{n}{unit}",), (f"{n}{unit}", f"{n}{zh_unit}")) for n in numbers)


ATTRIBUTES: dict[str, tuple[Value, ...]] = {
    "colour": (
        Value("black", ("black",), ("黑色",), 1.5),
        Value("white", ("white",), ("白色",), 1.3),
        Value("blue", ("blue",), ("蓝色",), 1.3),
        Value("red", ("red", "scarlet"), ("红色", "大红色"), 1.2),
        Value("grey", ("grey", "gray"), ("灰色",)),
        Value("navy", ("navy", "navy blue", "dark blue"), ("藏青色", "深蓝色")),
        Value("green", ("green",), ("绿色",)),
        Value("pink", ("pink", "rose pink"), ("粉色", "粉红色")),
        Value("brown", ("brown", "chocolate"), ("棕色", "咖啡色"), 0.8),
        Value("purple", ("purple", "violet"), ("紫色",), 0.8),
        Value("yellow", ("yellow",), ("黄色",), 0.8),
        Value("orange", ("orange",), ("橙色", "橘色"), 0.8),
    ),
    "pattern": (
        Value("plain", ("plain", "solid"), ("纯色", "素色"), 2.0),
        Value("striped", ("striped", "stripy"), ("条纹",)),
        Value("checked", ("checked", "plaid"), ("格子", "格纹")),
        Value("dotted", ("polka dot", "dotted", "spotted"), ("波点", "圆点")),
        Value("floral", ("floral", "flower print"), ("碎花", "花朵图案")),
    ),
    "brand": _named(
        ("Norvell", "诺维尔"),
        ("Kestrin", "凯斯琳"),
        ("Abrelle", "雅蓓莱"),
        ("Tamsworth", "谭沃"),
        ("Ostrava", "奥斯拉"),
        ("Quillon", "奇朗"),
        ("Belmira", "贝米拉"),
        ("Yunqi", "云栖"),
        ("Harrowby", "海洛比"),
        ("Zellano", "泽拉诺"),
    ),
    "connector": (
        Value("usb-c", ("USB-C", "type-c"), ("Type-C", "USB-C"), 1.5),
        Value("lightning", ("Lightning",), ("Lightning", "苹果口")),
        Value("micro-usb", ("Micro-USB",), ("Micro-USB", "安卓口")),
    ),
    "power": _counted("W", "瓦", "20", "33", "45", "65", "100"),
    "length": _counted("m", "米", "1", "2", "3", "5"),
    "volume": _counted("ml", "毫升", "30", "50", "75", "100"),
    "capacity": _counted("ml", "毫升", "250", "350", "450", "600"),
    "scent": _named(
        ("jasmine", "茉莉"),
        ("vanilla", "香草"),
        ("sandalwood", "檀香"),
        ("citrus", "柑橘"),
        ("lavender", "薰衣草"),
    ),
    "model": _named(
        ("K305", "K305"),
        ("K62", "K62"),
        ("M903", "M903"),
        ("T16", "T16"),
        ("P24", "P24"),
        ("C545", "C545"),
        ("H117", "H117"),
        ("R80", "R80"),
    ),
    "pack": tuple(Value(f"{n}-pack", (f"{n} pack", f"pack of {n}"), (f"{n}只装", f"{n}个装")) for n in (2, 4, 8, 12)),
    "subject": _named(
        ("gardening", "园艺"),
        ("chess", "象棋"),
        ("astronomy", "天文"),
        ("knitting", "编织"),
        ("cookery", "烹饪"),
        ("history", "历史"),
        ("photography", "摄影"),
        ("birdwatching", "观鸟"),
    ),
    "binding": (
        Value("paperback", ("paperback", "softcover"), ("平装",), 1.4),
        Value("hardcover", ("hardcover", "hardback"), ("精装",)),
    ),
    "cell": (
        Value("aa", ("AA",), ("5号",), 1.3),
        Value("aaa", ("AAA",), ("7号",), 1.3),
        Value("c", ("LR14",), ("2号",)),
        Value("9v", ("9V",), ("9V",)),
    ),
    "control": _named(
        ("touch", "触控"),
        ("dimmable", "可调光"),
        ("remote", "遥控"),
        ("pull-cord", "拉线"),
    ),
    "material": _named(("leather", "真皮"), ("velvet", "绒布"), ("linen", "亚麻"), ("mesh", "网布")),
    "movement": _named(("quartz", "石英"), ("automatic", "机械"), ("solar", "光能")),
    "opening": _named(("folding", "折叠"), ("auto-open", "自动"), ("long-stick", "长柄")),
}
