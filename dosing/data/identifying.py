"""Names of columns that look like those of something that identifies a person."""

import re
import unicodedata

_WORD = re.compile(
    "names?|surname|forename|nickname|initials|vorname|nachname|naam|nom|prenom|nombre|apellido|cognome|dob|"
    "born|birth|birthday|birthdate|geburtsdatum|ids?|identifier|uuid|guid|patients?|subject|mrn|nhs|ssn|npi|"
    "cpr|bsn|record|passport|insurance|address|street|city|zip|postcode|postal|phone|telephone|telefon|tel|"
    "mobile|fax|email|mail|url|ip|account|username|user"
)
_PART = re.compile(
    "firstname|lastname|fullname|familyname|givenname|patientname|birth|geburt|patient(id|no|number)|subjectid|"
    "record(n|id)|medicalrecord|hospital(n|id)|socialsecurity|email|phone|postcode|zipcode|passport|insurance"
)


def identifying(name: str) -> bool:
    """Whether a column's name looks like that of something that identifies a person.

    Names, birth dates, numbers of patients and of records, addresses, telephone and e-mail, in Latin letters,
    in any case and joined in any way; rather one too many, as columns can be removed.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower())
    return any(map(_WORD.fullmatch, words)) or _PART.search("".join(words)) is not None
