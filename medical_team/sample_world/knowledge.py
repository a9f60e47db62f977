"""The table of the sample clinic: what each diagnosis is recognised by, caused by and treated with.

The finding is the anchor: it is never altered, so it tells the diagnosis, and the diagnosis tells
every other fact. The table simplifies real practice (one organism, drug and dose for each
diagnosis) and is no medical advice.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final


class Fact(StrEnum):
    """A fact that can be altered in a note; the values are MEDEC's error types."""

    DIAGNOSIS = "diagnosis"
    ORGANISM = "causalOrganism"
    DRUG = "treatment"
    DOSE = "pharmacotherapy"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table: the finding, and the five facts that follow from it."""

    finding: str
    diagnosis: str
    organism: str
    drug: str
    dose: str
    management: str

    def value(self, fact: Fact) -> str:
        """The right value of a fact."""
        return {
            Fact.DIAGNOSIS: self.diagnosis,
            Fact.ORGANISM: self.organism,
            Fact.DRUG: self.drug,
            Fact.DOSE: self.dose,
            Fact.MANAGEMENT: self.management,
        }[fact]


_TABLE: Final = """
lobar consolidation;     pneumonia;      Pneumococcus;   amoxicillin;    1000 mg; chest radiography
dysuria;                 cystitis;       Escherichia;    nitrofurantoin; 100 mg;  urine culture
tonsillar exudate;       pharyngitis;    Streptococcus;  penicillin;     500 mg;  throat culture
spreading erythema;      cellulitis;     Staphylococcus; cephalexin;     500 mg;  leg elevation
neck stiffness;          meningitis;     Meningococcus;  ceftriaxone;    2000 mg; lumbar puncture
erythema migrans;        borreliosis;    Borrelia;       doxycycline;    100 mg;  tick removal
hemoptysis;              tuberculosis;   Mycobacterium;  isoniazid;      300 mg;  airborne isolation
cyclic fever;            malaria;        Plasmodium;     artemether;     80 mg;   blood smear
sudden myalgia;          influenza;      Orthomyxovirus; oseltamivir;    75 mg;   droplet isolation
dermatomal vesicles;     shingles;       Varicella;      valacyclovir;   1000 mg; lesion covering
oral plaques;            thrush;         Candida;        fluconazole;    200 mg;  denture cleaning
greasy stools;           giardiasis;     Giardia;        tinidazole;     2000 mg; stool microscopy
colonic pseudomembranes; colitis;        Clostridioides; vancomycin;     125 mg;  contact isolation
skin burrows;            scabies;        Sarcoptes;      ivermectin;     15 mg;   linen washing
epigastric pain;         gastritis;      Helicobacter;   clarithromycin; 500 mg;  breath testing
paroxysmal cough;        pertussis;      Bordetella;     azithromycin;   500 mg;  nasal swabbing
urethral discharge;      gonorrhea;      Gonococcus;     cefixime;       800 mg;  partner tracing
frothy discharge;        trichomoniasis; Trichomonas;    metronidazole;  2000 mg; condom counselling
seizures;                toxoplasmosis;  Toxoplasma;     pyrimethamine;  75 mg;   brain imaging
hyponatremia;            legionellosis;  Legionella;     levofloxacin;   750 mg;  sputum culture
watery stools;           cholera;        Vibrio;         tetracycline;   500 mg;  fluid replacement
rose spots;              typhoid;        Salmonella;     ofloxacin;      400 mg;  blood culture
annular plaques;         ringworm;       Trichophyton;   terbinafine;    250 mg;  skin scraping
perianal itching;        enterobiasis;   Enterobius;     albendazole;    400 mg;  tape testing
"""

CONDITIONS: Final[tuple[Condition, ...]] = tuple(
    Condition(*(cell.strip() for cell in line.split(";"))) for line in _TABLE.strip().splitlines()
)

# Every eighth wrong fact is kept for the test split, to measure what was learnt, not remembered.
_HELD_OUT_SHARE: Final = 8


@cache
def values(fact: Fact) -> tuple[str, ...]:
    """All values that a fact takes in the table, each once, in the table's order."""
    return tuple(dict.fromkeys(condition.value(fact) for condition in CONDITIONS))


def wrong_values(condition: Condition, fact: Fact) -> tuple[str, ...]:
    """Every value of a fact that is wrong for a condition."""
    return tuple(value for value in values(fact) if value != condition.value(fact))


def is_held_out(condition: Condition, fact: Fact, wrong: str) -> bool:
    """Whether this wrong fact may occur in the test split only.

    It depends on the names alone, not on a seed, so that the data and the tiny model always agree.

    Args:
        condition: what the patient has.
        fact: which fact is altered.
        wrong: the value that is stated instead of the right one.
    """
    key = f"{condition.diagnosis}/{fact.value}/{wrong}"
    return zlib.crc32(key.encode()) % _HELD_OUT_SHARE == 0
