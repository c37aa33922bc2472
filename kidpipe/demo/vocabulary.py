"""The values and synonyms of the generated world: plain word lists, shared by every domain."""

_FIRST = "Anna Bruno Clara David Elena Felix Greta Hugo Irene Jonas Karin Lucas Maria Nils Olga Pablo Rosa Samir Tara Victor"
_LAST = (
    "Adler Bishop Castro Dunn Evans Fischer Garcia Hansen Ivanov Jensen Keller Lopez Moreau Novak Olsen Petrov Quinn "
    "Rossi Silva Tanaka"
)
_ADJECTIVES = "Amber Bright Crystal Distant Emerald Frozen Golden Hidden Iron Lonely Modern Northern Quiet Red Silver"
_NOUNS = "Bridge Castle Dream Eagle Forest Garden Harbor Island Lake Mirror Mountain River Star Tower Window"

PEOPLE = tuple(f"{first} {last}" for first in _FIRST.split() for last in _LAST.split())
TITLES = tuple(f"{adjective} {noun}" for adjective in _ADJECTIVES.split() for noun in _NOUNS.split())

CITIES = ("Athens", "Berlin", "Chicago", "Dublin", "Lisbon", "Madrid", "Oslo", "Prague", "Tokyo", "Vienna")
COUNTRIES = ("Brazil", "Canada", "Egypt", "France", "Germany", "India", "Italy", "Japan", "Kenya", "Norway")

# Other ways to say a column in a question. One list for the whole world: a word means the same column name everywhere.
COLUMN_SYNONYMS: dict[str, str] = {
    "age": "age in years",
    "area": "surface",
    "balance": "account balance",
    "birth_date": "date of birth",
    "birth_year": "year of birth",
    "budget": "funding",
    "capacity": "seating capacity",
    "city": "town",
    "country": "nation",
    "credits": "credit points",
    "distance": "flight distance",
    "founding_year": "year of foundation",
    "hire_date": "date of hire",
    "income": "yearly income",
    "job": "profession",
    "length": "running time",
    "pages": "page count",
    "population": "number of inhabitants",
    "price": "cost",
    "release_date": "date of release",
    "salary": "pay",
    "score": "result",
    "stock": "units in stock",
    "weight": "weight in kilos",
}
