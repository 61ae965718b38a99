"""Account: login, password, e-mail address, personal data, deletion.

Key words: log in, password, account, e-mail address.  The message is about the customer's
profile, never about goods, so the product is always null.
Try: ``python -c "from examples.triage.phrases.account import ACCOUNT; print(ACCOUNT.train)"``
"""

from ..pools import Pool

ACCOUNT = Pool(
    "problem-account",
    train=(
        "I can't log in to my account any more, the page rejects my password.",
        "The password reset mail for my account never reaches me.",
        "Please delete my account and all my data.",
        "I need to change the e-mail address of my account.",
        "My account has been locked since {day}.",
        "I do not get the code that I need to log in to my account.",
        "Somebody has changed the password of my account, it wasn't me.",
        "I opened a second account by mistake, please merge it with my account.",
        "I got married and need a new surname in my account.",
        "Please send me all the data stored in my account.",
        "I have not got the mail to confirm my account.",
        "I lost my phone and cannot log in to my account without it.",
        "login to my account not possible, the reset link has expired.",
        "The history is empty when I log in to my account.",
        "My date of birth in my account is not right.",
        "I have to enter the password of my account all the time.",
        "I would like to close my account.",
        "The e-mail address of my account is already registered, says your site.",
        "There was a login from {city} on my account, and I have never been there.",
        "I forgot which e-mail address I used for my account.",
        "The form does not accept the new password for my account.",
        "I cannot change the address in my account, the save button stays grey.",
        "My name is spelled with one letter too many in my account.",
        "Please move my account to my private e-mail address.",
        "My account is suspended and I want access to it.",
        "I fear that my account was hacked on {day}.",
        "I forgot the password of my account and the security question.",
        "I want to remove an old e-mail address from my account.",
    ),
    held_out=(
        "Whatever password I enter, I'm not let into my account.",
        "I'd like everything you store on me erased, including my account.",
        "The link for a fresh password of my account leads to an empty page.",
        "I have a new mailbox, so my account needs another e-mail address.",
        "It looks as if someone hacked into my account last {day}.",
        "The one-time code for my account isn't being texted to me, so no login.",
        "My account was blocked in {month} and I don't know the reason.",
        "Kindly combine my account with the one that I opened in {month}.",
        "I no longer wish to be a customer, please close my account.",
        "Since {day} I'm not able to log in to my account.",
        "Your website keeps saying that the password of my account is too short.",
        "My e-mail address is misspelt in my account.",
    ),
)
