"""The fourteen databases of the generated world, as specifications: DOMAINS."""

from kidpipe.demo.spec import ColumnSpec, Database, category, date, label, link, number, table
from kidpipe.demo.vocabulary import CITIES, COUNTRIES, PEOPLE, TITLES


def _person() -> ColumnSpec:
    return label("name", PEOPLE)


def _title() -> ColumnSpec:
    return label("title", TITLES)


def _name() -> ColumnSpec:
    return label("name", TITLES)


def _city() -> ColumnSpec:
    return category("city", CITIES, "in")


def _country() -> ColumnSpec:
    return category("country", COUNTRIES, "from")


_CULTURE = (
    Database(
        "concert_hall",
        (
            table("venue", 12, _name(), _city(), number("capacity", 200, 2000, 50), date("opening_date", 1960, 2005)),
            table("singer performer", 24, _person(), _country(), number("age", 20, 70)),
            table(
                "concert show",
                60,
                _title(),
                link("venue", "at"),
                link("singer", "by"),
                number("price", 10, 120),
                date("concert_date", 2015, 2023),
            ),
        ),
    ),
    Database(
        "library",
        (
            table("author writer", 16, _person(), _country(), number("birth_year", 1900, 1990)),
            table(
                "book",
                40,
                _title(),
                link("author", "by"),
                category("genre", "crime fantasy history poetry romance"),
                number("pages", 80, 900, 10),
                date("release_date", 1950, 2020),
            ),
            table("member reader", 20, _person(), _city(), number("age", 12, 80)),
            table("loan", 70, link("book", "of"), link("member", "to"), number("days", 3, 30), date("loan_date", 2020, 2023)),
        ),
    ),
    Database(
        "cinema",
        (
            table("director filmmaker", 14, _person(), _country(), number("birth_year", 1930, 1990)),
            table(
                "film movie",
                40,
                _title(),
                link("director", "by"),
                category("genre", "action comedy drama horror western"),
                number("length", 70, 210),
                date("release_date", 1970, 2022),
            ),
            table("actor", 20, _person(), _country(), number("age", 18, 80)),
            table("role", 70, link("film", "in"), link("actor", "of"), number("salary", 110, 990, 10)),
        ),
    ),
    Database(
        "art_museum",
        (
            table("museum gallery", 10, _name(), _city(), number("visitors", 110, 990, 10)),
            table("artist painter", 18, _person(), _country(), number("birth_year", 1600, 1980)),
            table(
                "painting",
                60,
                _title(),
                link("artist", "by"),
                link("museum", "in"),
                category("style", "abstract baroque cubist gothic modern"),
                number("price", 1050, 9950, 50),
            ),
        ),
    ),
    Database(
        "football_league",
        (
            table("team club", 12, _name(), _city(), number("founding_year", 1880, 1990)),
            table(
                "player footballer",
                60,
                _person(),
                link("team", "of"),
                category("position", "defender forward goalkeeper midfielder"),
                number("goals", 0, 90),
                date("birth_date", 1985, 2004),
            ),
            table("coach trainer", 14, _person(), link("team", "of"), _country(), number("salary", 1550, 9950, 50)),
        ),
    ),
)

_SERVICES = (
    Database(
        "hospital",
        (
            table("department unit", 8, _name(), number("floor", 1, 6), number("budget", 110, 990, 10)),
            table(
                "doctor physician",
                24,
                _person(),
                link("department", "in"),
                category("specialty", "cardiology neurology oncology pediatrics surgery"),
                number("salary", 3050, 9950, 50),
                date("hire_date", 1995, 2022),
            ),
            table("patient", 30, _person(), _city(), number("age", 1, 95)),
            table(
                "visit", 70, link("doctor", "to"), link("patient", "by"), number("price", 20, 500), date("visit_date", 2021, 2023)
            ),
        ),
    ),
    Database(
        "school",
        (
            table(
                "teacher",
                14,
                _person(),
                category("subject", "art biology chemistry history music physics"),
                number("age", 25, 66),
            ),
            table("course class", 24, _title(), link("teacher", "of"), number("credits", 1, 8), number("hours", 10, 90)),
            table("student pupil", 30, _person(), _city(), date("birth_date", 1998, 2006)),
            table("enrollment", 80, link("student", "of"), link("course", "in"), number("score", 1, 100)),
        ),
    ),
    Database(
        "restaurant_guide",
        (
            table(
                "restaurant",
                16,
                _name(),
                _city(),
                category("cuisine", "chinese french greek indian mexican thai"),
                number("seats", 20, 200, 2),
            ),
            table("dish meal", 50, _title(), link("restaurant", "of"), number("price", 5, 80), number("calories", 100, 1200, 10)),
            table("review", 60, link("restaurant", "of"), number("stars", 1, 5), date("review_date", 2018, 2023)),
        ),
    ),
    Database(
        "hotel_chain",
        (
            table("hotel", 12, _name(), _city(), number("stars", 1, 5), number("rooms", 20, 400, 5)),
            table("guest visitor", 26, _person(), _country(), number("age", 18, 85)),
            table(
                "booking reservation",
                70,
                link("hotel", "at"),
                link("guest", "by"),
                number("nights", 1, 20),
                number("price", 50, 2000, 5),
                date("arrival_date", 2019, 2023),
            ),
        ),
    ),
    Database(
        "airline_network",
        (
            table("airline carrier", 8, _name(), _country(), number("planes", 5, 300)),
            table("airport", 12, _name(), _city(), number("elevation", 0, 2000, 10)),
            table(
                "flight",
                70,
                link("airline", "by"),
                link("airport", "to"),
                number("distance", 200, 9000, 50),
                number("price", 30, 900),
                date("flight_date", 2022, 2023),
            ),
        ),
    ),
)

_BUSINESS = (
    Database(
        "online_shop",
        (
            table("supplier vendor", 10, _name(), _country(), number("founding_year", 1950, 2015)),
            table(
                "product item",
                36,
                _title(),
                link("supplier", "from"),
                category("category", "books clothes furniture garden toys"),
                number("price", 3, 300),
                number("stock", 0, 500, 5),
            ),
            table("customer buyer", 24, _person(), _city(), number("age", 18, 80)),
            table(
                "purchase order",
                70,
                link("product", "of"),
                link("customer", "by"),
                number("quantity", 1, 12),
                date("purchase_date", 2020, 2023),
            ),
        ),
    ),
    Database(
        "consulting_firm",
        (
            table("office", 8, label("city", CITIES), _country(), number("area", 200, 4000, 50)),
            table("division", 7, _name(), link("office", "at"), number("budget", 110, 990, 10)),
            table(
                "employee worker",
                40,
                _person(),
                link("division", "in"),
                category("job", "accountant analyst designer engineer manager"),
                number("salary", 2050, 9950, 50),
                date("hire_date", 1998, 2023),
            ),
            table("project", 16, _title(), link("division", "of"), number("cost", 150, 9950, 50), date("start_date", 2015, 2023)),
            table("assignment", 70, link("employee", "of"), link("project", "to"), number("hours", 5, 200)),
        ),
    ),
    Database(
        "city_bank",
        (
            table("branch", 8, _name(), _city(), number("staff", 3, 60)),
            table("client", 30, _person(), _country(), number("income", 1050, 9950, 50)),
            table(
                "account",
                60,
                link("branch", "at"),
                link("client", "of"),
                category("type", "checking savings student business"),
                number("balance", 150, 9950, 50),
                date("opening_date", 2000, 2023),
            ),
        ),
    ),
    Database(
        "car_market",
        (
            table("maker manufacturer", 10, _name(), _country(), number("founding_year", 1900, 2005)),
            table(
                "car vehicle",
                70,
                _title(),
                link("maker", "by"),
                category("color", "black blue green red white"),
                number("horsepower", 60, 500, 5),
                number("price", 2050, 9950, 50),
                date("sale_date", 2018, 2023),
            ),
        ),
    ),
)

DOMAINS: tuple[Database, ...] = _CULTURE + _SERVICES + _BUSINESS
