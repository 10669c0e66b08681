"""What sellers write in titles and shoppers type as queries, in English and Chinese."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from data_pipelines.synthetic.kinds import Kind
from data_pipelines.synthetic.vocabulary import ATTRIBUTES, Language, Value


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split(", "))


# Words that sell and say nothing about what shoppers ask for.
_PUFF: dict[Language, tuple[str, ...]] = {
    "en": _words(
        "new arrival, best seller, free shipping, gift for her, gift for him, high quality, "
        "limited offer, birthday present, official store, 2025 edition, trending now, fast "
        "delivery, daily use, premium quality, hot deal, money back guarantee, multi purpose, "
        "great value"
    ),
    "zh": _words(
        "新款, 包邮, 正品, 官方旗舰店, 送礼佳品, 生日礼物, 高品质, 限时特惠, "
        "2025年, 爆款, 热卖, 网红同款, 七天无理由退换, 品质保证, 超值, "
        "顺丰速发, 厂家直销, 日常实用"
    ),
}
_CLOTHING: dict[Language, tuple[str, ...]] = {
    "en": _words(
        "cotton blend, casual, summer, loose fit, soft comfortable, ladies, mens, party wear, "
        "breathable, streetwear, holiday beach, office wear, machine washable, all seasons"
    ),
    "zh": _words("纯棉, 休闲, 夏季, 宽松, 舒适, 女士, 男士, 显瘦, 透气, 街头潮流, 度假, 通勤, 百搭, 四季可穿"),
}
_CARRIED: dict[Language, tuple[str, ...]] = {
    "en": _words("lightweight, everyday, travel, classic, stylish, durable, outdoor, comfortable, unisex, elegant"),
    "zh": _words("轻便, 日常, 旅行, 经典, 时尚, 耐用, 户外, 舒适, 男女通用, 气质"),
}
_DEVICE: dict[Language, tuple[str, ...]] = {
    "en": _words(
        "fast charging, for phone and tablet, universal, overheat protection, compact, travel "
        "ready, long lasting, safety tested, plug and play, replacement, for home and office"
    ),
    "zh": _words("快充, 手机平板通用, 通用款, 过热保护, 小巧, 便携, 耐用, 安全认证, 即插即用, 替换装, 家用办公"),
}
_HOME: dict[Language, tuple[str, ...]] = {
    "en": _words(
        "for home and office, bedroom, living room, modern, sturdy, easy to clean, nordic "
        "style, space saving, handmade, minimalist"
    ),
    "zh": _words("家用办公, 卧室, 客厅, 现代简约, 结实, 易清洁, 北欧风, 省空间, 手工, 极简"),
}
_OTHER: dict[str, dict[Language, tuple[str, ...]]] = {
    "perfume": {
        "en": _words("eau de parfum, long lasting scent, for women, unisex, spray, natural, luxury gift box"),
        "zh": _words("持久留香, 女士, 中性, 喷雾, 天然, 礼盒装, 清新"),
    },
    "cartridge": {
        "en": _words("compatible, for inkjet printer, high yield, office supplies, easy install, with chip, refill"),
        "zh": _words("兼容, 喷墨打印机, 大容量, 办公用品, 易安装, 带芯片, 连供"),
    },
    "book": {
        "en": _words("for beginners, illustrated, step by step, complete, revised, practical handbook, with exercises"),
        "zh": _words("入门, 图解, 从零开始, 大全, 修订版, 实用手册, 附练习"),
    },
}
_FAMILIES = (
    (("t-shirt", "dress", "trousers"), _CLOTHING),
    (("shoe", "handbag", "hat", "watch", "umbrella"), _CARRIED),
    (("charger", "cable", "battery"), _DEVICE),
    (("mug", "lamp", "chair"), _HOME),
)
_FILLERS = {kind: words for kinds, words in _FAMILIES for kind in kinds} | _OTHER
_SMALL = ("for", "of", "and", "de", "by", "to")
_SHOUTING = 0.04  # share of English titles in capitals
_FIRST_WORD = 0.85  # how often a shopper uses the usual word for a value
_FIRST_NAME = 0.7  # and for a kind


def title_of(kind: Kind, stated: Mapping[str, Value], language: Language, rng: random.Random) -> str:
    """A seller's title: long, stuffed with keywords, stating only the attributes of `stated`."""
    name, *synonyms = kind.names(language)
    fillers = _FILLERS[kind.key][language]
    brand = [stated["brand"].words(language)[0]] if "brand" in stated else []
    facts = [value.words(language)[0] for attribute, value in stated.items() if attribute != "brand"]
    rng.shuffle(facts)
    split = rng.randint(0, len(facts)) if rng.random() < 0.4 else len(facts)
    lead = rng.sample(fillers, rng.randint(1, 2))
    tail = rng.sample([word for word in fillers if word not in lead], rng.randint(1, 3))
    tail += rng.sample(_PUFF[language], rng.randint(1, 3))
    if rng.random() < 0.45:
        tail.append(rng.choice(synonyms))
    rng.shuffle(tail)
    if language == "zh":
        return " ".join([*brand, _run_together([*lead, *facts[:split], name]), *facts[split:], *tail])
    words = [_capitalised(word) for word in (*brand, *lead, *facts[:split], name, *facts[split:], *tail)]
    title = " ".join(words)
    return title.upper() if rng.random() < _SHOUTING else title


def query_of(kind: Kind, asked: Mapping[str, str], language: Language, rng: random.Random) -> str:
    """A query for `kind` with the values of `asked` (attribute -> value key), in any word order."""
    name = _one_of(kind.names(language), _FIRST_NAME, rng)
    facts = [_one_of(_value(*item).words(language), _FIRST_WORD, rng) for item in asked.items()]
    rng.shuffle(facts)
    place = len(facts) if rng.random() < 0.6 else rng.randint(0, len(facts))
    words = [*facts[:place], name, *facts[place:]]
    if language == "zh" and rng.random() < 0.5:
        return _run_together(words).lower()
    return " ".join(words).lower()


def _value(attribute: str, key: str) -> Value:
    return next(value for value in ATTRIBUTES[attribute] if value.key == key)


def _one_of(words: Sequence[str], first: float, rng: random.Random) -> str:
    """The first of the words with probability `first`, else one of the others."""
    return words[0] if len(words) == 1 or rng.random() < first else rng.choice(words[1:])


def _run_together(words: Sequence[str]) -> str:
    """The words without spaces, as Chinese is written, save between Latin letters or digits."""
    text = words[0]
    for word in words[1:]:
        text += f" {word}" if text[-1].isascii() and word[0].isascii() else word
    return text


def _capitalised(words: str) -> str:
    """Each word with a capital; small words and "65W" stay as they are."""
    return " ".join(word if word in _SMALL else word[0].upper() + word[1:] for word in words.split())
